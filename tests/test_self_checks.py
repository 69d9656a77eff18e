"""What a learner's answer is told: the check of an exercise takes the right one and no wrong one.

That the empty stub is answered by "not yet", the notebooks show, and nbval compares it.
"""

import ast
import contextlib
import copy

import nbformat
import pytest
import torch
from torch import nn

from utils import chapters, notebooks
from utils.data import load_cifar10

DEFINITIONS = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)


def code_of(name):
    """The code cells of a chapter's notebook, parsed."""
    cells = nbformat.read(notebooks.chapter_path(name).with_suffix(".ipynb"), 4).cells
    return [ast.parse(cell.source) for cell in cells if cell.cell_type == "code"]


def run(statements, space):
    exec(compile(ast.Module(list(statements), []), "chapter", "exec"), space)


def is_check(statement):
    """`assert check(test, answer)`, as it stands behind every solution."""
    return isinstance(statement, ast.Assert) and ast.unparse(statement.test).startswith("check(")


def answers(name):
    """(check, test, right answer) of every self-check, in the order of the chapter.

    Of the other cells only what they import and define is run, and the images are there.
    """
    space = {**vars(chapters.load(name)), "data": load_cifar10()}
    cells = code_of(name)
    for statement in (s for cell in cells for s in cell.body if isinstance(s, DEFINITIONS)):
        with contextlib.suppress(NameError):  # a default that only the whole notebook has
            run([statement], space)
    for cell in cells:
        if any(is_check(statement) for statement in cell.body):
            asked = next(i for i, statement in enumerate(cell.body) if is_check(statement))
            run(cell.body[:asked], space)
            yield (
                space["check"],
                *(
                    eval(compile(ast.Expression(argument), "chapter", "eval"), space)
                    for argument in cell.body[asked].test.args
                ),
            )


def spoilt(value):
    """Nearly the same value, and wrong."""
    if isinstance(value, nn.Module):
        value = copy.deepcopy(value)
        for parameter in value.parameters():
            parameter.data += 1
        value.superfluous = nn.Parameter(torch.zeros(1))
        return value
    if isinstance(value, torch.Tensor):
        return ~value if value.dtype == torch.bool else value + 1
    if isinstance(value, (tuple, list)):
        return type(value)(spoilt(part) for part in value)
    return not value if isinstance(value, bool) else value + 1


def wrong(right):
    """An answer of the same kind as `right` that is never right."""
    if isinstance(right, tuple):
        return tuple(wrong(part) for part in right)
    if isinstance(right, type) and right.__base__.__name__ not in ("Module", right.__name__):
        return right.__base__  # what was to be changed, unchanged
    if isinstance(right, type):  # where the names are the same, the base is the stub

        class Wrong(right):
            def __init__(self, *args, **options):
                super().__init__(*args, **options)
                self.superfluous = nn.Parameter(torch.zeros(1))

            def forward(self, x):
                return spoilt(super().forward(x))

        return Wrong
    return lambda *args, **options: spoilt(right(*args, **options))


def nothing(right):
    """An answer whose author forgot to return something."""
    if isinstance(right, tuple):
        return tuple(nothing(part) for part in right)
    return lambda *args, **options: None


@pytest.mark.parametrize("name", notebooks.chapters())
def test_a_check_takes_the_right_answer_and_refuses_wrong_ones(name, capsys):
    tested = []
    for check, test, right in answers(name):
        assert check(test, right), f"{test.__name__} refuses the chapter's own solution"
        for answer in (wrong(right), nothing(right)):
            capsys.readouterr()
            assert check(test, answer) is False, f"{test.__name__} takes a wrong answer"
            assert capsys.readouterr().out.startswith("not yet: ")
        tested.append(test.__name__)
    written = notebooks.chapter_path(name).read_text("utf-8").count("\nassert check(")
    assert len(tested) == written, tested
