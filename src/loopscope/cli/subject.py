"""What ``examine``, ``forecast`` and ``adapt`` share: their subject, which is a run, any loop, or a third-party model."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace

from loopscope.cli.console import say
from loopscope.cli.foreign_models import HUB, ForeignModel, is_of_the_hub, load
from loopscope.errors import LoopscopeError, check_positive
from loopscope.files import check_path
from loopscope.loop import AnswersPer
from loopscope.subjects import Subject, device, from_function, from_run
from loopscope.trees import Tree, select, tree_map

if TYPE_CHECKING:
    from loopscope.adapters.positions import Positions
    from loopscope.adapters.proof import ProvenLoop

PROVEN = 4
"""Inputs that an adapted model is proven on."""
TOKENS = 128
"""Tokens of a text that are kept."""
OF_MODELS = ("at", "every", "offset", "inputs", "text", "tokens", "positions", "answers_per", "single_precision")
"""Options that only make sense for a third-party model."""


def add_subject(parser: ArgumentParser) -> None:
    """Add the arguments that name a subject."""
    parser.add_argument(
        "subject",
        help="Folder of a trained run; package.module:function; or a third-party model. The function returns (loop, inputs), "
        "(loop, inputs, targets) or (loop, inputs, targets, trained iterations). Its module is looked for in the current "
        "folder first, then among the installed packages; importing it and calling the function runs its code. For "
        "third-party models see --text and --inputs.",
    )
    parser.add_argument(
        "--trained-iterations",
        type=int | None,
        help="Largest number of iterations used in training; by default what the run or the function says.",
    )
    add_model_options(parser)


def add_model_options(parser: ArgumentParser) -> None:
    """Add the options of third-party models: where they come from, what an iteration is, and their inputs."""
    parser.add_argument(
        "--text", type=str | None, help=f"File with one text per line, for a language model {HUB}FOLDER_OR_NAME."
    )
    parser.add_argument("--tokens", type=int | None, help="Largest number of tokens kept per text; 128 if left out.")
    parser.add_argument(
        "--inputs",
        type=str | None,
        help=f"File of arrays, .safetensors or .npz, named as the arguments of the model's forward; for {HUB}FOLDER_OR_NAME, or "
        "package.module:name of a torch.nn.Module or of a function that returns one.",
    )
    parser.add_argument(
        "--at",
        type=str | None,
        help="Submodule or method whose call is one iteration, or ends one, where the model is of no known family.",
    )
    parser.add_argument("--every", type=int | None, help="Calls of --at per iteration; 1 if left out.")
    parser.add_argument("--offset", type=int | None, help="Calls of --at before the first iteration; 0 if left out.")
    parser.add_argument(
        "--positions",
        type=str | None,
        help='Tokens that are read: last, all, or places such as "0,-1"; by default last for causal language models, otherwise all.',
    )
    parser.add_argument(
        "--answers-per",
        type=AnswersPer | None,
        help="With --at: whether each example or each token (as in a language model) has its own answer.",
    )
    parser.add_argument(
        "--trust-remote-code", action="store_true", help=f"Run the code that comes with {HUB}FOLDER_OR_NAME."
    )
    parser.add_argument(
        "--single-precision", action="store_true", help="Convert weights to float32; by default they stay as they are."
    )


def subject_of(options: Namespace) -> Subject:
    """Return the subject that the options name.

    Raises:
        LoopscopeError: there is no such run, module, function or model, the function returns something else, or the model
            cannot be a loop.
    """
    name = options.subject
    return with_trained_iterations(adapted(options) if is_foreign(options) else _own(name), options)


def with_trained_iterations(subject: Subject, options: Namespace) -> Subject:
    """Return a subject with the number of iterations in training that the options give, if they give one."""
    given = options.trained_iterations
    return subject if given is None else replace(subject, trained_iterations=given)


def _own(name: str) -> Subject:
    path = check_path(name)
    return from_function(name) if ":" in name and not path.exists() else from_run(path)


def is_foreign(options: Namespace) -> bool:
    """Return whether the subject is a third-party model.

    Raises:
        LoopscopeError: options of models were given for a run.
    """
    name, given = options.subject, [one for one in OF_MODELS if options[one]]
    if is_of_the_hub(name) or (":" in name and given and not check_path(name).exists()):
        return True
    refuse_model_options(options, name)
    return False


def refuse_model_options(options: Namespace, name: str) -> None:
    """Refuse options of third-party models that were given for something else.

    Raises:
        LoopscopeError: there is such an option.
    """
    given = [one for one in (*OF_MODELS, "trust_remote_code") if options[one]]
    if given:
        raise LoopscopeError(
            f"--{given[0].replace('_', '-')} is for third-party models, {HUB}FOLDER_OR_NAME or package.module:name with "
            f"--inputs; {name} is neither"
        )


def adapted(options: Namespace) -> Subject:
    """Load a third-party model, and return it as a loop, proven on its first inputs, with all of them.

    Raises:
        LoopscopeError: a file is missing or of no use, the model cannot be loaded, or it is not a loop.
    """
    check_inputs_given(options)
    model = loaded(options)
    inputs = inputs_in_file(options, model)
    words = _words(inputs, model) if options.text else None
    return Subject(proven(options, model, inputs), inputs, words=words)


def loaded(options: Namespace) -> ForeignModel:
    """Load the third-party model that the options name, on the device for trained models.

    Raises:
        LoopscopeError: the options contradict each other, or the model cannot be loaded.
    """
    _check(options)
    model = load(
        options.subject, trust_remote_code=options.trust_remote_code, single_precision=options.single_precision
    )
    model.model.to(device())
    return model


def proven(options: Namespace, model: ForeignModel, inputs: Tree) -> ProvenLoop:
    """Return a third-party model as a loop, proven on the first inputs.

    Raises:
        LoopscopeError: the model is not a loop, or its loop cannot be proven.
    """
    from loopscope.adapters.capture import capture
    from loopscope.adapters.registry import adapt, family_of

    few, positions = select(inputs, slice(0, PROVEN)), _positions(options.positions)
    family = family_of(model.model)
    if options.at is None and family is None:
        raise _unknown(model, few)
    if options.at is None:
        loop = adapt(model.model, few, positions)
    else:
        loop = capture(
            model.model,
            options.at,
            few,
            every=options.every or 1,
            offset=options.offset or 0,
            positions=positions or ("last" if model.is_language_model else "all"),
            answers_per=options.answers_per or ("token" if model.is_language_model else "example"),
        )
    is_half = getattr(loop, "in_half_precision", False)  # loops that are made by hand do not say
    half = ", in half precision as it is stored (--single-precision converts it)" if is_half else ""
    what = (
        f"a model of the family {family.name}" if family and options.at is None else f"iterations end with {options.at}"
    )
    say(f"{options.subject}: {what}; proven to be the model{half}")
    return loop


def _words(inputs: Tree, model: ForeignModel) -> list[list[str]]:
    """Return the text of each token of each input, padding left out."""
    from loopscope.cli.foreign_inputs import words_of

    assert model.tokenizer is not None  # only a model of the hub takes texts
    return words_of(inputs["input_ids"], inputs["attention_mask"], model.tokenizer())


def check_inputs_given(options: Namespace) -> None:
    """Refuse options that name no inputs of a third-party model, or two files of them.

    Raises:
        LoopscopeError: the subject is not a third-party model, or was not given exactly one file.
    """
    name = options.subject
    if ":" not in name:
        raise LoopscopeError(
            f"{name} is not a third-party model: expected {HUB}FOLDER_OR_NAME, such as {HUB}{name}, or package.module:name"
        )
    if (options.text is None) == (options.inputs is None):
        said = "both --text and --inputs" if options.text else "neither --text nor --inputs"
        raise LoopscopeError(
            f"{name} was given {said}, expected one of them: a file with one text per line, or one of arrays"
        )


def _check(options: Namespace) -> None:
    name = options.subject
    if options.text and not is_of_the_hub(name):
        raise LoopscopeError(
            f"--text needs a tokenizer, which {name} does not come with: give --inputs FILE of token ids"
        )
    if options.tokens is not None:
        check_positive(tokens=options.tokens)
        if not options.text:
            raise LoopscopeError("--tokens is for --text: --inputs are taken as they are")
    if options.at is None:
        for option in ("every", "offset", "answers_per"):
            if options[option] is not None:
                raise LoopscopeError(
                    f"--{option.replace('_', '-')} is for --at: name the call that is one iteration too"
                )


def inputs_in_file(options: Namespace, model: ForeignModel) -> Tree:
    """Return the inputs in the file of --text or --inputs, on the device for trained models.

    Raises:
        LoopscopeError: the file is missing or of no use, or its arrays do not fit the model.
    """
    return tree_map(lambda leaf: leaf.to(device()), _inputs(options, model))


def _inputs(options: Namespace, model: ForeignModel) -> Tree:
    from loopscope.adapters.registry import family_of
    from loopscope.cli.foreign_inputs import arrays_in, fitted_to_example, fitted_to_forward, texts_in, tokens_of

    if options.text:
        texts = texts_in(check_path(options.text))
        assert model.tokenizer is not None  # only a model of the hub takes texts
        return tokens_of(texts, model.tokenizer(), model.model, options.tokens or TOKENS)
    path = check_path(options.inputs)
    arrays, family = arrays_in(path), family_of(model.model)
    if family is not None and options.at is None:
        return fitted_to_example(arrays, family.example(model.model), path)
    return fitted_to_forward(arrays, model.model, path)


def _positions(given: str | None) -> Positions | None:
    named: dict[str | None, Positions | None] = {None: None, "last": "last", "all": "all"}
    if given is None or given in named:
        return named[given]
    try:
        return tuple(int(place) for place in given.strip("[]").split(","))
    except ValueError as error:
        raise LoopscopeError(f'--positions is {given!r}, expected last, all or places such as "0,-1"') from error


def _unknown(model: ForeignModel, inputs: Tree) -> LoopscopeError:
    """Return the refusal of a model of no known family, with the calls that it repeats."""
    from loopscope.adapters.candidates import find_loops, listing
    from loopscope.adapters.registry import FAMILIES

    kind, names = type(model.model).__name__, ", ".join(family.name for family in FAMILIES)
    return LoopscopeError(
        f"{kind} is of no known family ({names}): name the call that is one iteration with --at; "
        f"{listing(find_loops(model.model, inputs))}"
    )
