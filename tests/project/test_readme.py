"""The README names only commands, options and folders that exist."""

from __future__ import annotations

import re
import shlex

import pytest
import typer

from parc_hw.cli.main import app


@pytest.fixture(scope="module")
def text(repository):
    return (repository / "README.md").read_text()


@pytest.fixture(scope="module")
def options():
    def own(command):
        """Options of a command and of the commands inside it."""
        inside = [own(one) for one in getattr(command, "commands", {}).values()]
        return {o for parameter in command.params for o in parameter.opts}.union(*inside)

    group = typer.main.get_command(app)
    return {name: own(command) for name, command in group.commands.items()}


def test_every_command_line_uses_commands_and_options_that_exist(text, options):
    lines = re.findall(r"^parc-hw .*", text, flags=re.MULTILINE)
    assert len(lines) >= 9
    seen = set()
    for line in lines:
        for call in re.split(r" && |\s{2,}", line):
            words = shlex.split(call) if call.startswith("parc-hw ") else []
            if words:
                seen.add(words[1])
                used = {word for word in words[2:] if word.startswith("-")}
                assert used <= options[words[1]], call
    assert seen == set(options)


def test_the_two_commands_stand_on_top(text):
    first = text.split("```")[1]
    assert [line.split()[:2] for line in first.strip().splitlines()] == [
        ["make", "demo"],
        ["make", "test"],
    ]


def test_every_path_of_the_map_is_there(text, repository):
    table = text.split("## Where things are")[1]
    rows = re.findall(r"^\| ((?:`[^`]+` ?)+)\|", table, flags=re.MULTILINE)
    assert len(rows) >= 9
    for row in rows:
        paths = re.findall(r"`([^`]+)`", row)
        parent = paths[0].split("/")[0]
        for path in paths:
            assert (repository / path).exists() or (repository / parent / path).exists(), path


def test_targets_and_models_of_the_examples_exist(text):
    from parc_hw import models
    from parc_hw.accel.description import description_names
    from parc_hw.device import device_names

    targets = {*device_names(), *description_names()}
    assert set(re.findall(r"--target (\S+)", text)) <= targets
    named = re.findall(r"parc-hw (?:analyze|compile|train) (\w+)(?= )", text)
    assert set(named) <= set(models.names())
