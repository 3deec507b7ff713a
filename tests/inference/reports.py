"""A DICOM Structured Report as another program would read it."""

import shutil
import subprocess
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset

Value = float | str
NEEDS_DCMTK = pytest.mark.skipif(shutil.which("dsrdump") is None, reason="dcmtk is not installed")


def dumped(path: Path) -> str:
    """The report as dcmtk prints it; what dcmtk complains of is an error."""
    shown = subprocess.run(["dsrdump", path], capture_output=True, text=True, check=True)
    # its one complaint is about itself
    complaints = [line for line in shown.stderr.splitlines() if "VR checker does not support" not in line]
    assert not complaints
    return shown.stdout


def said_in(report: pydicom.Dataset) -> dict[str, tuple[Value, dict[str, Value]]]:
    """Of each number and class of the measurement group: what it is, a number of a unit as `60 %`, and what is told besides."""
    (group,) = (
        each
        for container in report.ContentSequence
        for each in container.get("ContentSequence", [])
        if _name(each) == "Measurement Group"
    )
    said = [each for each in group.ContentSequence if each.ValueType in ("NUM", "CODE")]
    return {_name(each): (_value(each), _besides(each)) for each in said}


def _besides(item: Dataset) -> dict[str, Value]:
    inner = item.get("ContentSequence", [])
    assert all(each.RelationshipType == "HAS PROPERTIES" for each in inner)
    return {_name(each): _value(each) for each in inner}


def _name(item: Dataset) -> str:
    return item.ConceptNameCodeSequence[0].CodeMeaning


def _value(item: Dataset) -> Value:
    if item.ValueType == "TEXT":
        return item.TextValue
    if item.ValueType == "CODE":
        return item.ConceptCodeSequence[0].CodeMeaning
    (measured,) = item.MeasuredValueSequence
    (unit,) = measured.MeasurementUnitsCodeSequence
    assert (unit.CodingSchemeDesignator, unit.CodeValue, unit.CodeMeaning) in (("UCUM", "1", "no units"), ("UCUM", "%", "percent"))  # fmt: skip
    number = float(measured.NumericValue)
    return f"{number:g} %" if unit.CodeValue == "%" else number
