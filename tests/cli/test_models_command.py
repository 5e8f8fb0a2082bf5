"""Does `parc-hw models` say how large each model is, why that is not the paper's, and what it reads?"""

import pytest

from parc_hw import models
from parc_hw.cli.models import expected_inputs, is_different

INFOS = [models.info(name) for name in models.names()]


@pytest.mark.parametrize("columns", [80, 120, 200])
def test_every_model_has_a_whole_line_on_narrow_terminals_too(cli, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = cli("models").out.splitlines()
    assert max(map(len, lines)) <= columns
    for info, line in zip(INFOS, lines[2:], strict=False):
        assert line.split()[0] == info.name
        assert line.split()[-2:] == ["x".join(map(str, info.input_shape)), info.channel_order]


def test_ours_stand_beside_the_papers_with_a_star_where_they_differ(cli):
    lines = {line.split()[0]: line.split() for line in cli("models").out.splitlines() if line}
    assert lines["parc_convnext_xt"][1:5] == ["7.41M", "7.41", "1.14G", "1.1"]
    assert lines["parcnet_xs"][1:5] == ["2.19M", "-", "0.944G", "-"]
    text = cli("models").out
    for expected in ("3.53M  3.54*   0.302G     0.3", "23.74M   23.7    3.94G    4.0*"):
        assert expected in text


def test_the_reason_for_each_difference_is_printed(cli):
    text = " ".join(cli("models").out.split())
    different = [info for info in INFOS if is_different(info)]
    assert len(different) >= 7
    for info in different:
        assert f"{info.name} {info.notes}" in text


def test_what_a_pixel_is_depends_on_the_channel_order_alone(cli):
    texts = expected_inputs(INFOS)
    for info in INFOS:
        assert expected_inputs([info]) == {info.channel_order: texts[info.channel_order]}
    assert "0 to 1, minus 0.485 0.456 0.406, divided by 0.229 0.224 0.225" in cli("models").out


def test_one_model_in_full_has_what_the_paper_does_not_print_as_a_dash(cli):
    lines = [" ".join(line.split()) for line in cli("models", "parcnet_xs").out.splitlines()]
    assert "parameters, paper -" in lines
    assert "MACs, paper -" in lines
    assert "parameters, authors' code 2,185,384" in lines


def test_json_has_every_model_in_full(cli):
    data = cli("models", "--json").json
    assert [entry["name"] for entry in data] == list(models.names())
    assert all(entry["notes"] == info.notes for entry, info in zip(data, INFOS, strict=True))
