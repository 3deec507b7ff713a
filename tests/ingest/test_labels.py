"""What a label cell says under the rule of its column."""

import pytest

from deepcoro.angiography.vocabulary import severity_of
from deepcoro.config import ConfigError
from deepcoro.ingest.labels import LabelRules, Rule, Unreadable, derived_columns, read_rules, settle

DEFAULT = LabelRules()


def value_of(column, cell, rules=DEFAULT, others=()):
    return settle(column, column, rules.rule_of(column), lambda: [cell, *others]).read(cell)


@pytest.mark.parametrize(
    ("column", "cell", "label"),
    [
        ("mid_lad_stenosis", "70", 70.0),
        ("mid_lad_stenosis", "70,5", 70.5),
        ("mid_lad_stenosis", "70 %", 70.0),
        ("mid_lad_stenosis", "-1", None),
        ("mid_lad_stenosis", "-1.0", None),
        ("mid_lad_stenosis", None, None),
        ("mid_lad_stenosis", "0", 0.0),
        ("mid_lad_IFRHYPEREMIE", "0", None),
        ("mid_lad_IFRHYPEREMIE", "-1", None),
        ("mid_lad_IFRHYPEREMIE", "0.87", 0.87),
        ("prox_rca_cto", "True", 1.0),
        ("prox_rca_cto", "FALSE", 0.0),
        ("prox_rca_cto", "1.0", 1.0),
        ("prox_rca_cto", "oui", 1.0),
        ("prox_rca_calcif", "minimes", "mild"),
        ("prox_rca_calcif", "Modérées", "moderate"),
        ("prox_rca_calcif", "importantes", "severe"),
        ("prox_rca_calcif", "Pas de calcification", "none"),
        ("prox_rca_calcif", "3", "severe"),
        ("prox_rca_calcif_binary", "moderate", "moderate"),
        ("prox_rca_calcif_binary", "1", 1.0),
        ("mid_lad_bifurcation", "Pas de lésion de bifurcation", "none"),
        ("mid_lad_bifurcation", "1,1,0", "1,1,0"),
        ("dominance", "0", "right"),
        ("dominance", "Gauche", "left"),
        ("main_structure", "8", "Aorta"),
        ("status", "post-pci", "POST_PCI"),
        ("z_score", "-1", -1.0),
        ("tiredness", "very", "very"),
    ],
)
def test_missing_is_a_value_and_never_a_number(column, cell, label):
    assert value_of(column, cell) == label


@pytest.mark.parametrize(
    ("column", "cell"),
    [
        ("mid_lad_stenosis", "700"), ("mid_lad_stenosis", "-2"), ("mid_lad_stenosis", "severe"),
        ("lvef", "inf"), ("prox_rca_cto", "2"), ("prox_rca_cto", "maybe"), ("prox_rca_calcif", "4"),
        ("dominance", "the patient was in pain and " * 4),
    ],
)  # fmt: skip
def test_a_cell_that_does_not_fit_is_refused(column, cell):
    with pytest.raises(Unreadable):
        value_of(column, cell)


def test_the_kind_of_an_undeclared_column_is_what_all_its_cells_are():
    assert value_of("x", "1", others=["0", None]) == 1.0
    assert settle("x", "x", DEFAULT.rule_of("x"), lambda: ["1", "0"]).kind == "binary"
    assert settle("x", "x", DEFAULT.rule_of("x"), lambda: ["1", "2.5"]).kind == "number"
    assert settle("x", "x", DEFAULT.rule_of("x"), lambda: ["mild", "severe"]).kind == "grade"
    assert settle("x", "x", DEFAULT.rule_of("x"), lambda: ["mild", "7"]).kind == "word"


@pytest.mark.parametrize(("kind", "negative"), [("percent", 0.0), ("binary", 0.0), ("grade", "none")])
def test_an_empty_cell_is_negative_only_where_that_is_declared(kind, negative):
    for absent, expected in (("negative", negative), ("not_assessed", None)):
        rules = LabelRules(rules={"x": Rule(kind=kind, absent=absent, missing_codes=(-9, "unk"))})
        assert value_of("x", None, rules) == expected
        assert value_of("x", "-9.0", rules) is None and value_of("x", "UNK", rules) is None


def test_the_users_rule_comes_first_and_may_name_the_column_as_his_table_does():
    rules = LabelRules(rules={"leftmain_cto": Rule(kind="binary", positive=("TOTAL",), negative=("open",))})
    assert (
        value_of("left_main_cto", "total", rules) == 1.0 and value_of("left_main_cto", "OPEN", rules) == 0.0
    )
    assert value_of("mid_lad_cto", "1", rules) == 1.0
    words = LabelRules(rules={"*_calcif": Rule(kind="grade", words={"++": "moderate"}, negative=("clean",))})
    assert value_of("mid_lad_calcif", "Clean", words) == "none"
    assert (
        value_of("flow", "lent", LabelRules(rules={"flow": Rule(kind="word", words={"Lent": "slow"})}))
        == "slow"
    )
    assert value_of("mid_lad_calcif", "++", words) == "moderate"


def test_thresholds_are_those_of_the_vocabulary_and_70_is_severe():
    severe, significant = DEFAULT.condition("severe"), DEFAULT.condition("significant")
    for percent in range(101):
        assert severe(percent) == (severity_of(percent) in ("severe", "critical"))
        assert significant(percent) == (severity_of(percent) in ("moderate", "severe", "critical"))
    assert severe(70) and not severe(69.9)
    strict = LabelRules(thresholds={"severe": "> 70"}).condition("severe")
    assert not strict(70) and strict(70.1)


def test_rules_are_read_from_yaml_and_what_is_wrong_in_them_is_named(tmp_path):
    path = tmp_path / "rules.yaml"
    path.write_text(
        'rules:\n  "*_cto": {kind: binary, absent: negative, missing_codes: [9]}\nthresholds: {tight: ">= 80"}\n'
    )
    rules = read_rules(path)
    assert value_of("om1_cto", None, rules) == 0.0 and value_of("om1_cto", "9", rules) is None
    assert rules.condition("tight")(80)
    with pytest.raises(ConfigError, match="'severe' is no threshold; allowed: .'tight'."):
        rules.condition("severe")
    for text, message in [
        ("rules: {x: {kind: colour}}", "rules.x.kind"),
        ("rules: {x: {kind: number, absent: negative}}", "absent: negative has no meaning for kind number"),
        ("rules: {x: {kind: grade, positive: [y]}}", "positive words belong to kind binary"),
        ("rules: {x: {kind: number, negative: [y]}}", "negative words belong to kind binary or grade"),
        ("rules: {x: {kind: binary, words: {y: z}}}", "words belong to kind grade or word"),
        ("thresholds: {severe: about 70}", "is no condition"),
        ("rulez: {}", "unknown key 'rulez'.*rules"),
    ]:
        path.write_text(text)
        with pytest.raises(ConfigError, match=message):
            read_rules(path)
    with pytest.raises(ConfigError, match="does not exist"):
        read_rules(tmp_path / "none.yaml")


def test_derived_columns_need_a_stenosis_and_a_free_name():
    columns = [
        settle(name, name, DEFAULT.rule_of(name), list) for name in ("mid_lad_stenosis", "mid_lad_severe")
    ]
    with pytest.raises(ConfigError, match="already has a label 'mid_lad_severe'"):
        derived_columns(columns, ["severe"], DEFAULT)
    with pytest.raises(ConfigError, match="end in _stenosis"):
        derived_columns(columns[1:], ["severe"], DEFAULT)
    assert [each.name for each in derived_columns(columns, ["significant"], DEFAULT)] == [
        "mid_lad_significant"
    ]
