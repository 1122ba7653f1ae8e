"""Serve the page on this machine, until it is interrupted."""

from __future__ import annotations

import errno
import os
import signal
import socket
import threading
from collections.abc import Callable, Sequence

from loopscope.errors import LoopscopeError
from loopscope.extras import check_installed
from loopscope.lab.exhibits import Exhibit

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def check_address(host: str, port: int) -> int:
    """Return the port to serve on, a free one for port 0; refuse an address that cannot be served.

    Raises:
        LoopscopeError: the port is in use or out of range, or the host is not one of this machine.

    Example:
        >>> check_address("127.0.0.1", 70000)
        Traceback (most recent call last):
        loopscope.errors.LoopscopeError: port is 70000, expected a number from 0 to 65535, where 0 takes any free one
    """
    if not 0 <= port <= 65535:
        raise LoopscopeError(f"port is {port}, expected a number from 0 to 65535, where 0 takes any free one")
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # As the server does: a port whose last connections are still closing is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            free: int = probe.getsockname()[1]
            return free
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise LoopscopeError(
                f"port {port} of {host} is in use: stop what uses it, or give another with --port (0 takes any free one)"
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM):
            raise LoopscopeError(f"port {port} of {host} is not allowed: give one above 1023 with --port") from error
        raise LoopscopeError(
            f"cannot serve on {host}: {error.strerror}; expected an address of this machine"
        ) from error


def serve(exhibits: Sequence[Exhibit] | None, host: str, port: int, on_ready: Callable[[str], None]) -> None:
    """Serve the lab until SIGINT or SIGTERM arrives; nothing is left running.

    Args:
        exhibits: what it shows; the shipped models by default.
        host: the address to serve on.
        port: the port; 0 takes any free one.
        on_ready: called with the address of the page once it can be opened.

    Raises:
        LoopscopeError: Gradio is not installed, or see `check_address`.
    """
    check_installed("gradio", "the lab")
    port = check_address(host, port)
    # Set before Gradio is imported: it would ask its makers for news, and look for a newer version of itself.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    stop = threading.Event()
    previous = {
        number: signal.signal(number, lambda number, frame: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        from loopscope.lab.page import make_page, theme

        page = make_page(exhibits)
        if stop.is_set():
            return
        page.launch(
            server_name=host,
            server_port=port,
            prevent_thread_lock=True,
            quiet=True,
            share=False,
            inbrowser=False,
            ssr_mode=False,
            footer_links=[],
            theme=theme(),
        )
        try:
            on_ready(f"http://{'localhost' if host in LOOPBACK else host}:{port}")
            stop.wait()
        finally:
            page.close(verbose=False)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
