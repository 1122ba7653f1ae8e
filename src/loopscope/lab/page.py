"""The page of the lab, made with Gradio: controls around the stage. What they do is in `loopscope.lab.session`."""

from __future__ import annotations

import itertools
import math
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from loopscope.errors import LoopscopeError
from loopscope.extras import check_installed
from loopscope.lab.exhibits import Exhibit, open_exhibit, shipped_names
from loopscope.lab.gradio_without_stubs import without_stubs
from loopscope.lab.session import Frames, Session, Sessions
from loopscope.lab.stage import STYLE, stage
from loopscope.reports.kit.page import text

# Checked before it is imported, so that a missing package gives a one-line error.
check_installed("gradio", "the lab")

with without_stubs():
    import gradio as gr

SCRIPT = (Path(__file__).parent / "page.js").read_text()
PACE = 0.08
"""Seconds for which a picture is shown, at least."""
STRIDES = [("every iteration", 1), ("every 5th iteration", 5), ("every 20th iteration", 20)]
"""What Play and the experiments can show, with the iterations from one picture to the next."""
ALONE = "none"
"""The choice of no second model."""

HEAD = """<div class="lab lab-head"><p class="brand">Loopscope lab</p><h1>Watch a loop think</h1>
<p>A looped model applies the same block again and again. Each iteration changes its state a little, and the answer with it.
Press Play and watch the answer form. Then do the three experiments below: they are the three questions that decide whether
more iterations help.</p></div>"""
EXPERIMENTS = {
    "push": (
        "1 · Push it",
        "Reachability: does the loop find its way back? Its state is pushed in a random direction, or started at random.",
    ),
    "change": (
        "2 · Change the question",
        "Input-dependence: is it this problem's answer? The state stays, the problem is replaced. Does the answer follow?",
    ),
    "run": (
        "3 · Let it run",
        "Extrapolation: is the answer kept far beyond training? A forecast is stated first, then the loop is run.",
    ),
}


def theme() -> gr.themes.Base:
    """Return the look of the controls: the fonts of the machine, and the colours of the drawings."""
    fonts = ["system-ui", "-apple-system", "Segoe UI", "DejaVu Sans", "sans-serif"]
    base = gr.themes.Default(
        primary_hue="blue", neutral_hue="slate", font=fonts, font_mono=["ui-monospace", "DejaVu Sans Mono", "monospace"],
        spacing_size="sm", radius_size="md",
    )  # fmt: skip
    return base.set(
        button_large_text_size="15px", button_large_text_weight="600", button_large_padding="8px 12px",
        button_primary_background_fill="#0072b2", button_primary_background_fill_hover="#005c91",
        button_primary_background_fill_dark="#0072b2", button_primary_background_fill_hover_dark="#005c91",
        slider_color="#0072b2", slider_color_dark="#4aa8e0",
    )  # fmt: skip


def make_page(exhibits: Sequence[Exhibit] | None = None) -> gr.Blocks:
    """Return the page of the lab, ready to be launched: ``make_page().launch(theme=theme())``.

    Args:
        exhibits: what it shows; the models that come with the package by default.
    """
    exhibits = [open_exhibit(name) for name in shipped_names()] if exhibits is None else exhibits
    return _Page(Sessions(exhibits)).blocks


class _Page:
    """The controls, and what each of them does."""

    def __init__(self, sessions: Sessions) -> None:
        self.sessions = sessions
        # One action at a time: they change sessions, and each of them can keep all cores busy.
        self._turn = threading.Lock()
        self._pictures = itertools.count(1)
        self._told: WeakKeyDictionary[Session, list[Any]] = WeakKeyDictionary()
        with gr.Blocks(title="Loopscope lab", analytics_enabled=False, fill_width=True) as self.blocks:
            gr.HTML(f"<style>{STYLE}</style>{HEAD}")
            self._choices()
            self._time()
            self.stage = gr.HTML(
                elem_id="stage", elem_classes="lab", js_on_load=SCRIPT, label="The boards and the orbits"
            )
            self._experiments()
            self.clock = gr.Timer(PACE, active=False)
            self._connect()

    def _choices(self) -> None:
        names = self.sessions.names
        with gr.Row():
            self.model = gr.Dropdown(names, value=names[0], label="Model", scale=2, min_width=180)
            self.beside = gr.Dropdown([ALONE], value=ALONE, label="Compare with", scale=3, min_width=180)
            self.pick = gr.Dropdown([], label="Pick a problem", scale=3, min_width=220)
            self.problem = gr.Textbox(label="Or type one", scale=5, min_width=280, submit_btn="Show", max_lines=1)
        self.said = gr.HTML(elem_classes="lab", visible=False)

    def _time(self) -> None:
        with gr.Row(elem_id="time"):
            self.play = gr.Button("▶ Play", variant="primary", scale=1, min_width=80)
            self.pause = gr.Button("Pause", scale=1, min_width=80)
            self.step = gr.Button("One step", scale=1, min_width=80)
            self.restart = gr.Button("Start again", scale=1, min_width=115)
            self.slider = gr.Slider(
                0, 1, 0, step=1, label="Iteration: go back in time", scale=5, min_width=240, buttons=[]
            )
            self.stride = gr.Dropdown(STRIDES, value=1, label="Pictures", scale=2, min_width=190)

    def _experiments(self) -> None:
        self.findings = {}
        with gr.Row(equal_height=True):
            with self._card("push"):
                self.fraction = gr.Slider(5, 300, 50, step=5, label="Push by (% of the state's size)", buttons=[])
                with gr.Row():
                    self.push = gr.Button("Push it", min_width=80)
                    self.random = gr.Button("Random start", min_width=80)
                self.findings["push"] = gr.HTML(elem_classes="lab")
            with self._card("change"):
                self.other = gr.Dropdown([], label="The other problem", allow_custom_value=True)
                self.change = gr.Button("Change the question", min_width=80)
                self.findings["change"] = gr.HTML(elem_classes="lab")
            with self._card("run"):
                self.horizon = gr.Radio([500, 5000], value=500, label="Iterations")
                self.leaps = gr.Checkbox(False, label="Draw leaps (states extrapolated from the first iterations)")
                self.run = gr.Button("Let it run", min_width=80)
                self.findings["run"] = gr.HTML(elem_classes="lab")

    def _card(self, name: str) -> Any:
        title, words = EXPERIMENTS[name]
        column = gr.Column(min_width=280, variant="panel", elem_id=f"experiment-{name}")
        with column:
            gr.HTML(f'<div class="lab experiment"><h2>{text(title)}</h2><p>{text(words)}</p></div>')
        return column

    @property
    def _moving(self) -> list[Any]:
        """The components that change from picture to picture."""
        return [self.stage, self.slider, self.said, *self.findings.values(), self.clock]

    @property
    def _all(self) -> list[Any]:
        return [*self._moving, self.model, self.beside, self.pick, self.problem, self.other]

    def _connect(self) -> None:
        """Connect each control with what it does."""
        self.blocks.load(self._opened, None, self._all, **_QUIET)
        self.blocks.unload(self._left)
        self.clock.tick(self._ticked, None, self._moving, **_QUIET)
        # Of clicks that come while one is being answered, the last one counts.
        last = {"trigger_mode": "always_last", **_QUIET}
        self.model.input(self._chosen, self.model, self._all, **last)
        self.beside.input(self._compared, self.beside, self._all, **last)
        self.pick.input(self._asked, self.pick, self._all, **last)
        self.problem.submit(self._asked, self.problem, self._all, **last)
        self.stage.input(self._edited, None, self._all, **last)
        self.stage.select(self._refreshed, None, self._all, **last)
        self.restart.click(self._restarted, None, self._all, **last)
        # Numbers as they are typed: Gradio raises for one beyond the ends of its slider.
        typed = {"preprocess": False, **last}
        self.slider.input(self._shown, self.slider, self._moving, **typed)
        self.stride.input(self._strode, self.stride, None, **last)
        self.pause.click(self._paused, None, self._moving, **last)
        self.play.click(self._played, None, self._moving, **last)
        self.push.click(self._pushed, self.fraction, self._moving, **typed)
        self.random.click(self._started_at_random, None, self._moving, **last)
        self.change.click(self._changed, self.other, self._moving, **last)
        self.run.click(self._ran, [self.horizon, self.leaps], self._moving, **last)
        self.step.click(self._stepped, None, self._moving, **{**last, "trigger_mode": "multiple"})

    def _opened(self, visit: gr.Request) -> list[Any]:
        return self._after(visit, _nothing, self._whole)

    def _left(self, visit: gr.Request) -> None:
        self.sessions.drop(visit.session_hash or "")

    def _chosen(self, name: str, visit: gr.Request) -> list[Any]:
        return self._after(visit, lambda session: session.choose(name), self._whole)

    def _compared(self, name: str, visit: gr.Request) -> list[Any]:
        return self._after(visit, lambda session: session.compare(None if name == ALONE else name), self._whole)

    def _asked(self, given: str | None, visit: gr.Request) -> list[Any]:
        return self._after(visit, lambda session: session.ask(given or ""), self._whole)

    def _edited(self, event: gr.EventData, visit: gr.Request) -> list[Any]:
        return self._after(visit, lambda session: _edit(session, event._data or {}), self._whole)

    def _restarted(self, visit: gr.Request) -> list[Any]:
        return self._after(visit, Session.restart, self._whole)

    def _stepped(self, visit: gr.Request) -> list[Any]:
        return self._after(visit, Session.step, self._parts)

    def _shown(self, iteration: Any, visit: gr.Request) -> list[Any]:
        return self._after(visit, lambda session: session.show(int(_number("the iteration", iteration))), self._parts)

    def _strode(self, stride: int, visit: gr.Request) -> None:
        with self._turn:
            self._session(visit).show_every(stride)

    def _paused(self, visit: gr.Request) -> list[Any]:
        return self._after(visit, _nothing, self._parts)

    def _played(self, visit: gr.Request) -> list[Any]:
        return self._begun(visit, Session.play)

    def _pushed(self, percent: Any, visit: gr.Request) -> list[Any]:
        return self._begun(visit, lambda session: session.push(_number("the push", percent) / 100))

    def _started_at_random(self, visit: gr.Request) -> list[Any]:
        return self._begun(visit, Session.start_at_random)

    def _changed(self, other: str | None, visit: gr.Request) -> list[Any]:
        return self._begun(visit, lambda session: session.change(other or ""))

    def _ran(self, iterations: int, leaps: bool, visit: gr.Request) -> list[Any]:
        return self._begun(visit, lambda session: session.run_on(int(iterations), leaps))

    def _ticked(self, visit: gr.Request) -> list[Any]:
        with self._turn:
            session = self._session(visit)
            if session.busy:
                session.problem = _attempt(session.proceed)
            return self._parts(session)

    def _refreshed(self, visit: gr.Request) -> list[Any]:
        """Return everything as it is, for a page that was shown an older picture after a newer one."""
        with self._turn:
            return self._whole(self._session(visit))

    def _session(self, visit: gr.Request) -> Session:
        return self.sessions.of(visit.session_hash or "")

    def _after(
        self, visit: gr.Request, action: Callable[[Session], object], shown: Callable[[Session], list[Any]]
    ) -> list[Any]:
        """Carry out what is done at once, in place of what goes on, and return what the page shows then."""
        with self._turn:
            session = self._session(visit)
            session.stop()
            session.problem = _attempt(lambda: action(session))
            return shown(session)

    def _begun(self, visit: gr.Request, action: Callable[[Session], Frames]) -> list[Any]:
        """Begin an action; the clock asks for its further pictures, so that it stops when the page is closed."""

        def begin(session: Session) -> None:
            session.begin(action(session))
            session.proceed()

        return self._after(visit, begin, self._parts)

    def _parts(self, session: Session) -> list[Any]:
        """Return what moves in time; of alert, findings and clock only what differs from what the page shows already."""
        told = [session.problem, *(_finding(session, name) for name in EXPERIMENTS), session.busy]
        before = self._told.get(session, [None] * len(told))
        self._told[session] = told
        made: list[Callable[[Any], Any]] = [_alert, *(str for _ in EXPERIMENTS), _clock]
        return [
            f'<div data-picture="{next(self._pictures)}">{stage(session)}</div>',
            gr.Slider(maximum=max(1, session.end), value=session.iteration),
            *(gr.skip() if now == last else make(now) for make, now, last in zip(made, told, before, strict=True)),
        ]

    def _whole(self, session: Session) -> list[Any]:
        """Return all components."""
        self._told.pop(session, None)
        first = session.lanes[0].exhibit
        rival = session.lanes[1].exhibit.name if len(session.lanes) > 1 else ALONE
        picks = [(note, given) for given, note in first.examples.items()]
        known = session.text if session.text in first.examples else None
        others = [given for given in first.examples if given != session.text]
        return [
            *self._parts(session),
            gr.Dropdown(value=first.name),
            gr.Dropdown(choices=[ALONE, *session.rivals()], value=rival),
            gr.Dropdown(choices=picks, value=known),
            gr.Textbox(
                value=session.text,
                interactive=bool(first.view.hint),
                label="Or type one" if first.view.hint else "The problem",
                placeholder=first.view.hint,
            ),
            gr.Dropdown(choices=picks, value=others[0] if others else None),
        ]


_QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "queue": False}
"""Options of all events. None flickers, and none is listed as an interface for programs. Each is one request: the queue of Gradio
would make two of it, and take a quarter of the time from a click to the screen. Answers could therefore arrive in another order
than they were made in; the number of a picture tells, see page.js."""


def _number(name: str, given: Any) -> float:
    """Return a number that was typed in.

    Raises:
        LoopscopeError: it is not a finite number.
    """
    if isinstance(given, bool) or not isinstance(given, int | float) or not math.isfinite(given):
        raise LoopscopeError(f"{name} is {given!r}, expected a number")
    return given


def _nothing(session: Session) -> None:
    """Do nothing, for what only stops the action that goes on."""


def _edit(session: Session, data: dict[str, Any]) -> None:
    """Change the problem by a key or a move on a board."""
    lane, place = int(data["lane"]), int(data["place"])
    if "origin" in data:
        session.move(lane, int(data["origin"]), place)
    else:
        session.edit(lane, place, str(data["key"]))


def _attempt(action: Callable[[], object]) -> str:
    """Carry out an action, and return in one line what is wrong if it fails; else an empty string."""
    try:
        action()
    except LoopscopeError as error:
        return str(error)
    except Exception as error:
        # A loop of the user's own can raise anything. The page says what, the terminal where.
        traceback.print_exc(file=sys.stderr)
        return f"the loop raised {type(error).__name__}: {' '.join(str(error).split())}; the terminal shows where"
    return ""


def _clock(runs: bool) -> gr.Timer:
    return gr.Timer(active=runs)


def _alert(problem: str) -> gr.HTML:
    """Return what is wrong, as screen readers announce at once."""
    words = f'<p class="wrong-input" role="alert">{text(problem)}</p>' if problem else ""
    return gr.HTML(words, visible=bool(problem))


def _finding(session: Session, name: str) -> str:
    """Return what an experiment found, as a region that screen readers announce."""
    found = session.found.get(name, [])
    names = [lane.exhibit.name for lane in session.lanes]
    lines = [
        f"<p>{f'<b>{text(who)}:</b> ' if len(found) > 1 else ''}{text(said)}</p>"
        for who, said in zip(names, found, strict=False)
        if said
    ]
    return f'<div class="finding{" told" if lines else ""}" aria-live="polite" data-finding="{name}">{"".join(lines)}</div>'
