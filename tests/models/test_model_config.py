"""The options of a model: contradictions and values of the wrong kind are refused in one line."""

import json
import sys
from typing import get_args

import numpy as np
import pytest
from paper_reference import config

from loopscope.errors import LoopscopeError
from loopscope.models import LoopedTransformer, LoopedTransformerConfig, build_model
from loopscope.models.config import NormName, RecallName
from loopscope.models.recall import RECALLS
from loopscope.models.residual import RULES


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"recall": "interal"}, r"recall is 'interal', expected one of .*did you mean internal\?"),
        ({"norm": "post"}, "norm is 'post', expected one of pre, peri, outer, sandwich, gru"),
        ({"architecture": "deep"}, "architecture is 'deep'"),
        ({"attention": "sparse"}, "attention is 'sparse'"),
        ({"heads": 3}, "width 16 cannot be split into 3 heads"),
        ({"width": 0}, "width is 0, expected a whole number from 1 to 1,000,000"),
        ({"blocks": -1}, "blocks is -1"),
        ({"rope_base": float("nan")}, "rope_base is nan"),
        ({"inputs": 0}, "inputs is 0"),
        (
            {"architecture": "fixed-depth", "recall": "internal"},
            "recall is 'internal' in a fixed-depth model.* set recall to none",
        ),
        ({"attention": "full", "kernel_size": 5}, "kernel_size 5 was given with full attention"),
        (
            {"attention": "local", "kernel_size": 1, "grid": (0,)},
            "kernel_size is 1, expected an odd number of at least 3",
        ),
        (
            {"attention": "local", "kernel_size": 4, "grid": (0,)},
            "kernel_size is 4, expected an odd number of at least 3",
        ),
        ({"attention": "banded", "kernel_size": 6, "grid": (0,)}, "kernel_size is 6, expected an odd number"),
        ({"attention": "local", "kernel_size": -5, "grid": (0,)}, "kernel_size is -5, expected a whole number from 1"),
        ({"attention": "causal", "kernel_size": 5}, "kernel_size 5 was given with causal attention"),
        ({"attention": "causal"}, r"causal attention was asked for on the grid \(3, 4\): it is defined on a line only"),
        ({"attention": "local", "kernel_size": 5}, "it is defined on a line only"),
        ({"attention": "banded"}, "it is defined on a line only"),
        ({"attention": "local"}, "it is defined on a line only"),
        ({"attention": None, "kernel_size": 5}, "it is defined on a line only"),
        ({"grid": ()}, "expected positive lengths"),
        ({"grid": (0, 9)}, "expected positive lengths"),
        ({"grid": (-4,)}, "expected positive lengths"),
        ({"heads": 8}, "heads of width 2 cannot carry a rotary embedding over 2 axes"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_contradictions_are_refused_when_the_config_is_built(options, sentence):
    with pytest.raises(LoopscopeError, match=sentence) as caught:
        config(**options)
    assert "\n" not in str(caught.value)


def test_an_incomplete_config_builds_no_model():
    with pytest.raises(LoopscopeError, match="leaves inputs, outputs, grid, attention empty"):
        build_model(LoopedTransformerConfig())
    for attention in ("local", "banded"):
        with pytest.raises(LoopscopeError, match="leaves kernel_size empty"):
            build_model(config(grid=(0,), attention=attention))
    with pytest.raises(LoopscopeError, match="describes a fixed-depth model, expected looped"):
        LoopedTransformer(config(architecture="fixed-depth", recall="none"))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"mlp_ratio": 9223372036854775808},
            "mlp_ratio is 9223372036854775808, expected a whole number from 1 to 1,000,000",
        ),
        ({"width": 10**400}, r"width is 10{36}\.\.\., expected a whole number"),
        ({"width": 10 ** (sys.get_int_max_str_digits() + 1)}, "width is a number of thousands of digits, expected"),
        ({"width": 16.0}, "width is 16.0, expected a whole number"),
        ({"width": "wide"}, "width is 'wide', expected a whole number"),
        ({"width": [16]}, r"width is \[16\], expected a whole number"),
        ({"width": None}, "width is None, expected a whole number"),
        ({"outputs": True}, "outputs is True, expected a whole number"),
        ({"heads": True}, "heads is True, expected a whole number"),
        (
            {"width": 10**6, "heads": 10},
            r"make a model of 1\.2e\+13 weights, expected at most 1e\+11: choose smaller sizes",
        ),
        ({"rope_base": 10**400}, r"rope_base is 10{36}\.\.\., expected a finite number of at least 1"),
        ({"rope_base": float("inf")}, "rope_base is inf, expected a finite number"),
        ({"rope_base": 1e-308}, "rope_base is 1e-308, expected a finite number of at least 1"),
        ({"rope_base": True}, "rope_base is True, expected a finite number"),
        ({"rope_base": "10000"}, "rope_base is '10000', expected a finite number"),
        ({"rope_base": None}, "rope_base is None, expected a finite number"),
        ({"grid": 9}, r"grid is 9, expected positive lengths such as \(9, 9\)"),
        ({"grid": "99"}, "grid is '99', expected positive lengths"),
        ({"grid": (True, 9)}, "expected positive lengths"),
        ({"grid": (False,)}, "expected positive lengths"),
        ({"grid": (2.5, 9)}, "expected positive lengths"),
        ({"grid": ("9", "9")}, "expected positive lengths"),
        ({"grid": ((9,), 9)}, "expected positive lengths"),
        ({"grid": (10**400,)}, "expected positive lengths"),
        ({"norm": ["outer"]}, r"norm is \['outer'\], expected one of pre"),
        ({"attention": {}}, "attention is {}, expected one of full"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_values_of_the_wrong_kind_are_refused_in_one_line(options, sentence):
    for build in (lambda: config(**options), lambda: LoopedTransformerConfig.from_dict(options)):
        with pytest.raises(LoopscopeError, match=sentence) as caught:
            build()
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 300


@pytest.mark.usefixtures("unchecked")
def test_numbers_of_numpy_become_plain_ones():
    made = config(width=np.int64(16), grid=(np.int32(3), 4))
    assert made == config(width=16, grid=(3, 4))
    assert json.dumps([made.width, made.grid]) == "[16, [3, 4]]"


def test_names_of_options_are_those_of_their_classes():
    assert set(get_args(RecallName)) == RECALLS.keys()
    assert set(get_args(NormName)) == RULES.keys()


@pytest.mark.parametrize(
    ("older", "current"),
    [
        ({"attention": "local", "window": 5}, {"attention": "banded", "kernel_size": 11}),
        ({"window": 1}, {"attention": "banded", "kernel_size": 3}),
        ({"attention": "full", "window": None}, {"attention": "full"}),
        ({"attention": "local", "kernel_size": 5, "window": None}, {"attention": "local", "kernel_size": 5}),
    ],
)
def test_the_window_of_older_versions_keeps_its_meaning(older, current):
    given = {"width": 16, "heads": 2, "grid": [0]}
    assert LoopedTransformerConfig.from_dict(given | older) == LoopedTransformerConfig.from_dict(given | current)


@pytest.mark.parametrize(
    ("older", "sentence"),
    [
        (
            {"window": 5, "attention": "full"},
            "window is 5 beside kernel_size None and attention 'full'.*use kernel_size instead",
        ),
        ({"window": 5, "attention": "banded"}, "window is 5 beside .* attention 'banded'"),
        ({"window": 5, "kernel_size": 5}, "window is 5 beside kernel_size 5 .*use kernel_size instead"),
        ({"window": 0}, "window is 0, expected a whole number from 1"),
        ({"window": True}, "window is True, expected a whole number from 1"),
        ({"window": "5"}, "window is '5', expected a whole number from 1"),
    ],
)
def test_a_window_that_contradicts_other_options_is_refused(older, sentence):
    with pytest.raises(LoopscopeError, match=sentence):
        LoopedTransformerConfig.from_dict(older)
