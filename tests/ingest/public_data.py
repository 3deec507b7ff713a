"""Miniatures of public data sets: the folders, tables and files of each layout, with films of a few frames."""

import csv
import gzip
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tests.ingest.films import moving_bar, write_dicom, write_video

ULTRASOUND = "1.2.840.10008.5.1.4.1.1.3.1"


def film(seed: int = 0, num_frames: int = 6, size: int = 48) -> np.ndarray:
    """Films differ from one another, coarsely enough to be told apart by their fingerprints inside an echo's sector too."""
    blocks = np.random.default_rng(seed).integers(0, 120, (6, 6), dtype=np.uint8)
    pattern = np.kron(blocks, np.ones((-(-size // 6), -(-size // 6)), np.uint8))[:size, :size]
    return np.maximum(moving_bar(num_frames, size, size), pattern)


def write_csv(path: Path, rows: Sequence[dict], opener=open) -> None:
    with opener(path, "wt", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def echonet_dynamic(folder: Path) -> Path:
    """Four films; A has two tracings, B one, C two with the smaller first."""
    (folder / "Videos").mkdir(parents=True)
    rows = []
    for number, (name, split) in enumerate(zip("ABCD", ("TRAIN", "TRAIN", "VAL", "TEST"), strict=True)):
        write_video(folder / "Videos" / f"0X{name}.avi", film(number), "mjpeg", "yuvj420p", 50)
        rows.append({
            "FileName": f"0X{name}", "EF": 50.5 + number, "ESV": 40.0, "EDV": 90.25, "FrameHeight": 48,
            "FrameWidth": 48, "FPS": 50, "NumberOfFrames": 6, "Split": split,
        })  # fmt: skip
    write_csv(folder / "FileList.csv", rows)
    traces = [("A", 1, 30), ("A", 4, 20), ("B", 2, 30), ("C", 0, 10), ("C", 5, 25)]
    points = []
    for name, frame, length in traces:
        axis = {"X1": 10, "Y1": 5, "X2": 10, "Y2": 5 + length}
        chords = [{"X1": 5, "Y1": y, "X2": 5 + length / 2, "Y2": y} for y in range(8, 5 + length, 4)]
        points += [{"FileName": f"0X{name}.avi", **line, "Frame": frame} for line in (axis, *chords)]
    write_csv(folder / "VolumeTracings.csv", points)
    return folder


def echonet_lvh(folder: Path) -> Path:
    """Three listed films, of which one is lost, and one that is not listed."""
    for number, place in enumerate(("Batch1/0XA", "Batch3/0XB", "Batch4/0XUNLISTED")):
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        write_video(folder / f"{place}.avi", film(10 + number), "mjpeg", "yuvj420p", 50)
    rows = [
        ("0XA", "IVSd", 1.0, 2, "train"), ("0XA", "LVIDd", 4.8, 2, "train"), ("0XA", "LVPWd", 1.1, 2, "train"),
        ("0XA", "LVIDs", 3.0, 5, "train"), ("0XA", "IVSd", 1.2, 3, "train"), ("0XB", "LVIDs", 2.5, 4, "val"),
        ("0XLOST", "IVSd", 0.9, 1, "test"),
    ]  # fmt: skip
    write_csv(folder / "MeasurementsList.csv", [
        {"": number, "HashedFileName": name, "Calc": calc, "CalcValue": value, "Frame": frame, "X1": 1, "X2": 2,
         "Y1": 3, "Y2": 4, "Frames": 6, "FPS": 50, "Width": 48, "Height": 48, "split": split}
        for number, (name, calc, value, frame, split) in enumerate(rows)
    ])  # fmt: skip
    return folder


def cadica(folder: Path) -> Path:
    """Six films of three patients: lesions graded and not, none visible, and one that was not selected."""
    import cv2
    import openpyxl

    root = folder / "CADICA"
    videos = ["selectedVideos/p1/v1", "selectedVideos/p1/v2", "selectedVideos/p2/v1", "selectedVideos/p2/v3",
              "selectedVideos/p10/v4", "nonselectedVideos/p1/v9"]  # fmt: skip
    for seed, video in enumerate(videos):
        _, patient, name = video.split("/")
        (root / video / "input").mkdir(parents=True)
        for number, frame in enumerate(film(20 + seed), start=1):
            cv2.imwrite(str(root / video / "input" / f"{patient}_{name}_{number:05d}.png"), frame)
        (root / video / f"{patient}_{name}_selectedFrames.txt").write_text(f"{patient}_{name}_00002\n")
    boxes = {
        "selectedVideos/p1/v1": "10 12 8 8 p50_70\n30 30 9 9 p70_90\n",
        "selectedVideos/p2/v1": "1,2,3,4,p20_50\n",
    }
    for video, text in boxes.items():
        _, patient, name = video.split("/")
        (root / video / "groundtruth").mkdir()
        (root / video / "groundtruth" / f"{patient}_{name}_00002.txt").write_text(text)
    lists = {"p1": ("v1\n", "v2\n"), "p2": ("v1\nv3\n", ""), "p10": ("", "v4\n")}
    for patient, (lesion, nonlesion) in lists.items():
        (root / "selectedVideos" / patient / "lesionVideos.txt").write_text(lesion)
        (root / "selectedVideos" / patient / "nonlesionVideos.txt").write_text(nonlesion)
    projections = {"videosLCA": ["p1_v1"], "videosLCA2": ["p2_v1"], "videosRCA": ["p1_v2", "p2_v3"]}
    (root / "selectedVideos" / "CADICAprojections.json").write_text(json.dumps(projections))
    book = openpyxl.Workbook()
    for row in (("Patient ID", "Sex", "LVEF (%)"), ("p1", "M", 55), ("p2", "F", None), (10, "F", 40.5)):
        book.active.append(row)
    book.save(root / "metadata.xlsx")
    return folder


def cardiosyntax(folder: Path, folds: bool = True) -> Path:
    """Three studies, two folds; the films of a study lie in a folder of their own."""
    studies = []
    for number in range(3):
        key = f"1.2.3.{number}"
        (folder / "dicoms" / key).mkdir(parents=True)
        for side in ("left", "right"):
            write_dicom(folder / "dicoms" / key / f"{side}.dcm", film(30 + 2 * number + (side == "left")))
        studies.append({
            "study_id": key, "syntax": 10.0 * number, "syntax_left": 7.0 * number, "syntax_right": 3.0 * number,
            "videos_left": [{"path": f"dicoms/{key}/left.dcm"}], "videos_right": [{"path": f"dicoms/{key}/right.dcm"}],
        })  # fmt: skip
    if not folds:
        (folder / "all.json").write_text(json.dumps(studies))
        return folder
    for fold in (0, 1):
        (folder / f"fold_{fold}_train.json").write_text(json.dumps(studies[:2] if fold == 0 else studies[1:]))
        (folder / f"fold_{fold}_eval.json").write_text(json.dumps(studies[2:] if fold == 0 else studies[:1]))
    return folder


def cardiosyntax_2(folder: Path) -> Path:
    """The second version of the list: an artery beside each film, arrays."""
    folder.mkdir()
    videos = []
    for number, artery in enumerate(("LCA", "RCA")):
        np.save(folder / f"{artery}.npy", film(40 + number))
        videos.append({"path": f"{artery}.npy", "artery": artery})
    (folder / "studies.json").write_text(
        json.dumps([{"study_uid": "1.2.3.0", "syntax": 5, "videos": videos}])
    )
    return folder


def coronary_dominance(folder: Path) -> Path:
    """A part for training, one with groups of quality, and the part that overlaps CardioSYNTAX."""
    studies = ["main_normal/Left_Dominance/9.1", "main_normal/Right_Dominance/9.2",
               "main_others/artifact/Right_Dominance/9.3", "real_distribution/Right_Dominance/1.2.3.0"]  # fmt: skip
    for seed, study in enumerate(studies):
        for artery in ("LCA", "RCA"):
            (folder / study / artery).mkdir(parents=True)
            pixels = film(50 + 2 * seed + (artery == "LCA"))
            np.savez_compressed(folder / study / artery / "0.npz", pixel_array=pixels)
    return folder


def mimic_iv_echo(folder: Path) -> Path:
    """Two patients; one film and one still in the first study, a study of another kind of measurement."""
    records, studies = [], []
    for number, (subject, study, still) in enumerate([(11, 91, False), (11, 91, True), (12, 92, False)]):
        place = f"files/p{subject}/p{subject}/s{study}/{study}_{number:04d}.dcm"
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        frames = film(60 + number)[: 1 if still else None]
        write_dicom(folder / place, frames, SOPClassUID=ULTRASOUND, Modality="US", PatientID=str(subject))
        records.append(
            {
                "subject_id": subject,
                "study_id": study,
                "acquisition_datetime": "2150-01-02 03:04:05",
                "dicom_filepath": place,
            }
        )
        studies.append(
            {
                "subject_id": subject,
                "study_id": study,
                "study_datetime": "2150-01-02 03:04:05",
                "measurement_id": study + 700,
            }
        )
    write_csv(folder / "echo-record-list.csv", records)
    write_csv(folder / "echo-study-list.csv", [studies[0], studies[2]])
    values = [(791, "tte", "lvef", "50-55"), (791, "tte", "lvidd", "4.5"), (791, "tte", "ee_comment", "poor windows, Dr. X"),
              (792, "stress", "lvef", "20"), (792, "tte", "lvef", "60"), (792, "tte", "lvef", "62%"), (799, "tte", "lvef", "30")]  # fmt: skip
    write_csv(folder / "structured-measurement.csv.gz", [
        {"subject_id": 1, "measurement_id": key, "measurement_datetime": "2150-01-02", "test_type": kind,
         "measurement": name, "measurement_description": "", "result": result, "unit": "%"}
        for key, kind, name, result in values
    ], gzip.open)  # fmt: skip
    return folder


def camus(folder: Path) -> Path:
    """Three patients in three splits; the third has the four-chamber view only."""
    import nibabel

    (folder / "database_split").mkdir(parents=True)
    for number, split in enumerate(("training", "validation", "testing"), start=1):
        name = f"patient{number:04d}"
        (folder / "database_split" / f"subgroup_{split}.txt").write_text(f"{name}\n")
        place = folder / "database_nifti" / name
        place.mkdir(parents=True)
        for view in ("2CH", "4CH")[number == 3 :]:
            columns_rows_frames = film(70 + number).transpose(2, 1, 0)
            image = nibabel.Nifti1Image(columns_rows_frames, np.eye(4))
            for part in ("half_sequence", "half_sequence_gt", "ED"):
                nibabel.save(image, place / f"{name}_{view}_{part}.nii.gz")
            (place / f"Info_{view}.cfg").write_text(
                f"ED: 1\nES: 6\nNbFrame: 6\nSex: F\nAge: 5{number}\nImageQuality: Good\nEF: 5{number}\nFrameRate: 47.5\n"
            )
    return folder
