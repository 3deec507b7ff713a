"""Invented identities, planted wherever a film or a table has room for one, and a search that looks through every wrapping."""

import base64
import hashlib
import html
import io
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pydicom
import zstandard
from PIL import Image
from pydicom.dataset import Dataset

from tests.ingest import films
from tests.ingest.films import PLANTED, write_dicom, write_video

EXTRA = {
    "private group": "PRIV-77181-TREMBLAY", "private unknown": "PRIVUN-90125", "private sequence": "PRIVSQ-60606", "request": "REQ-PROC-31337",
    "request step": "STEP-DESC-42424", "other id": "OTHERID-88442", "original attributes": "ORIGATTR-51515", "icon": "ICON-PIXELS-9091",
    "overlay": "OVERLAY-BITS-7717", "overlay comments": "OVERLAY-TEXT-6611", "overlay label": "OVLABEL-1213", "curve": "CURVE-DATA-2323",
    "curve label": "CURVE-LABEL-4545", "preamble": "PREAMBLE-5656", "application": "AE-TITLE-6767", "meta private": "METAPRIV-7878",
    "padding": "PADDING-8989", "signature": "CERTIFICATE-9191", "derivation": "DERIV-2525", "device": "DEVICEUID-3636", "contrast": "CONTRAST-4747",
    "occupation": "OCCUPATION-5858", "history": "HISTORY-6969", "ethnic": "ETHNIC-1414", "protocol": "PROTOCOL-1515", "interventional": "ROUTE-1616",
    "avi title": "AVITITLE-7171", "avi comment": "AVICOMMENT-8181", "avi tail": "AVITAIL-9292", "mp4 title": "MP4TITLE-1313", "mp4 artist": "MP4ARTIST-2424",
    "npz member": "NPZMEMBER-3535", "npy header": "NPYTAIL-4646", "accession in file name": "20210917093012",
}  # fmt: skip
"""Where -> what, beyond the twenty-six elements of PLANTED."""

REPORT = (
    "Dre OKAFOR, opérateur : Linh NGUYEN. Patiente : Mme TREMBLAY (MRN-7734501, NAM TREG 5503 1299), née le 12/03/1955. Vue le 17 septembre 2021"
    " à 09h30 par Henri LAVOIE, MD, tél. 514-555-0199, 4141 rue Sherbrooke, ada.okafor@exemple.org, film /pacs/TREMBLAY/20210917093012.dcm. "
)
"""Said before the findings of every planted report."""
CELLS = ("TREG 5503 1299", "12/03/1955", "17 septembre 2021", "09h30", "ada.okafor@exemple.org", "/pacs/", "rue Sherbrooke", "voisine du maire", "7734501", "19550312")  # fmt: skip
NAMES = ("TREMBLAY", "GENEVIEVE", "BOUCHARD", "LAVOIE", "OKAFOR", "NGUYEN", "77345")
SECRETS = sorted({*PLANTED.values(), *EXTRA.values(), *CELLS, *NAMES})


def textured(seed: int, num_frames: int = 8, size: int = 48) -> np.ndarray:
    """A film [frame height width] that looks like no other: smooth blobs, one of them moving."""
    coarse = np.random.default_rng(seed).uniform(20, 230, (6, 6))
    base = np.array(Image.fromarray(coarse.astype(np.uint8)).resize((size, size), Image.Resampling.BICUBIC))
    film = base[None].repeat(num_frames, 0)
    for number in range(num_frames):
        film[number, 4 + number : 12 + number, 6 + seed % 20 : 14 + seed % 20] = 250
    return film


def write_full_dicom(path: Path, seed: int, syntax: str = films.EXPLICIT, **elements: object) -> Path:
    """A film with an identity in every corner of its file."""
    write_dicom(path, textured(seed), syntax, **elements)
    dataset = pydicom.dcmread(path)
    _plant_private(dataset)
    _plant_sequences(dataset)
    _plant_graphics(dataset)
    for keyword, where in (
        ("DerivationDescription", "derivation"), ("ContrastBolusAgent", "contrast"), ("Occupation", "occupation"), ("AdditionalPatientHistory", "history"),
        ("EthnicGroup", "ethnic"), ("ProtocolName", "protocol"), ("ContrastBolusRoute", "interventional"), ("DeviceDescription", "device"),
    ):  # fmt: skip
        setattr(dataset, keyword, EXTRA[where])
    dataset.add_new(0xFFFCFFFC, "OB", EXTRA["padding"].encode() * 2)
    dataset.preamble = EXTRA["preamble"].encode().ljust(128, b"\0")
    dataset.file_meta.SourceApplicationEntityTitle = EXTRA["application"]
    dataset.file_meta.PrivateInformationCreatorUID = PLANTED["StudyInstanceUID"]
    dataset.file_meta.PrivateInformation = EXTRA["meta private"].encode()
    dataset.save_as(path, enforce_file_format=True)
    return path


def _plant_private(dataset: Dataset) -> None:
    block = dataset.private_block(0x0099, "TREMBLAY SYSTEMS", create=True)
    block.add_new(0x01, "LO", EXTRA["private group"])
    block.add_new(0x02, "UN", EXTRA["private unknown"].encode())
    item = Dataset()
    item.PatientName, item.ImageComments = PLANTED["PatientName"], EXTRA["private sequence"]
    block.add_new(0x03, "SQ", [item])


def _plant_sequences(dataset: Dataset) -> None:
    step, request, other, original, changed, signature = (Dataset() for _ in range(6))
    step.CodeValue, step.CodingSchemeDesignator, step.CodeMeaning = "1", "99X", EXTRA["request step"]
    request.RequestedProcedureDescription, request.ScheduledProtocolCodeSequence = EXTRA["request"], [step]
    dataset.RequestAttributesSequence = [request]
    other.PatientID = EXTRA["other id"]
    dataset.OtherPatientIDsSequence = [other]
    changed.PatientName, changed.PatientComments = PLANTED["PatientName"], EXTRA["original attributes"]
    original.ModifiedAttributesSequence = [changed]
    dataset.OriginalAttributesSequence = [original]
    signature.CertificateOfSigner = EXTRA["signature"].encode() * 2
    dataset.DigitalSignaturesSequence = [signature]


def _plant_graphics(dataset: Dataset) -> None:
    icon = Dataset()
    icon.Rows = icon.Columns = 4
    icon.BitsAllocated = icon.BitsStored = 8
    icon.HighBit, icon.PixelRepresentation, icon.SamplesPerPixel = 7, 0, 1
    icon.PhotometricInterpretation = "MONOCHROME2"
    icon.PixelData = EXTRA["icon"].encode()[:16].ljust(16, b"\0")
    dataset.IconImageSequence = [icon]
    dataset.add_new(0x60000010, "US", 16)
    dataset.add_new(0x60000011, "US", 16)
    dataset.add_new(0x60000022, "LO", EXTRA["overlay label"])
    dataset.add_new(0x60000040, "CS", "G")
    dataset.add_new(0x60000050, "SS", [1, 1])
    dataset.add_new(0x60000100, "US", 1)
    dataset.add_new(0x60000102, "US", 0)
    dataset.add_new(0x60003000, "OW", EXTRA["overlay"].encode().ljust(32, b"\0"))
    dataset.add_new(0x60004000, "LT", EXTRA["overlay comments"])
    dataset.add_new(0x50000005, "US", 2)
    dataset.add_new(0x50000022, "LO", EXTRA["curve label"])
    dataset.add_new(0x50003000, "OW", EXTRA["curve"].encode().ljust(32, b"\0"))


def write_full_video(path: Path, seed: int) -> Path:
    """A Motion-JPEG AVI or an H.264 MP4 whose metadata and tail name the patient."""
    import av

    suffix = path.suffix
    plain = write_video(path.with_name(f"plain{suffix}"), textured(seed, size=64), "mjpeg" if suffix == ".avi" else "libx264", "yuvj420p" if suffix == ".avi" else "yuv420p")  # fmt: skip
    kind = "avi" if suffix == ".avi" else "mp4"
    with av.open(str(plain)) as source, av.open(str(path), "w") as target:
        target.metadata["title"] = EXTRA[f"{kind} title"]
        target.metadata["comment" if kind == "avi" else "artist"] = EXTRA[f"{kind} {'comment' if kind == 'avi' else 'artist'}"]  # fmt: skip
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    plain.unlink()
    if kind == "avi":
        path.write_bytes(path.read_bytes() + EXTRA["avi tail"].encode())
    return path


# --- the search ----------------------------------------------------------------------------------------------------------------


def needles(secrets: Iterable[str]) -> dict[bytes, str]:
    """Every form in which a secret could stand in a file: letters of any case, UTF-16, base64, hexadecimal, an unkeyed digest."""
    forms: dict[bytes, str] = {}
    for secret in secrets:
        plain = secret.lower().encode()
        for encoded in (plain, secret.lower().encode("utf-16-le"), secret.lower().encode("utf-16-be"), plain.hex().encode(), secret.encode().hex().encode()):  # fmt: skip
            forms[encoded] = secret
        forms[json.dumps(secret.lower()).strip('"').encode()] = secret
        for digest in (hashlib.md5, hashlib.sha1, hashlib.sha256):
            forms[digest(secret.encode()).hexdigest()[:16].encode()] = secret
    return forms


def base64_needles(secrets: Iterable[str]) -> dict[bytes, str]:
    """The inside of the base64 of a secret at each of the three alignments."""
    forms: dict[bytes, str] = {}
    for secret in secrets:
        for start in range(3):
            coded = base64.b64encode(b"\0" * start + secret.encode())
            inside = coded[4 if start else 0 : len(coded) - 4]
            if len(inside) >= 8:
                forms[inside] = secret
    return forms


def found_in(name: str, payload: bytes, secrets: Iterable[str] = SECRETS) -> set[str]:
    """The secrets that a file holds, in its name or in any layer of its content."""
    secrets = list(secrets)
    small, coded = needles(secrets), base64_needles(secrets)
    found = set()
    for layer in (name.encode(), *layers(name, payload)):
        lower = layer.lower()
        found |= {secret for form, secret in small.items() if form in lower}
        found |= {secret for form, secret in coded.items() if form in layer}
    return found


def layers(name: str, payload: bytes) -> Iterator[bytes]:
    """The bytes, and what they are when unpacked: zstd frames, Parquet columns, JSON, pages with their embedded images, image texts."""
    yield payload
    if name.endswith(".parquet"):
        table = pyarrow.parquet.read_table(io.BytesIO(payload))
        yield repr(table.to_pylist()).encode() + repr(table.schema.metadata).encode()
    if name.endswith((".json", ".jsonl")):
        yield "\n".join(json.dumps(json.loads(line), ensure_ascii=False) for line in _documents(payload)).encode()  # fmt: skip
    if name.endswith(".html"):
        text = payload.decode()
        yield html.unescape(text).encode()
        for coded in re.findall(r"base64,([A-Za-z0-9+/=]+)", text):
            image = base64.b64decode(coded)
            yield image
            yield _texts_of_image(image)
    if name.endswith((".png", ".jpg")):
        yield _texts_of_image(payload)
    for start in (each.start() for each in re.finditer(rb"\x28\xb5\x2f\xfd", payload)):
        try:
            yield zstandard.ZstdDecompressor().decompressobj().decompress(payload[start:])
        except zstandard.ZstdError:
            continue


def _documents(payload: bytes) -> list[str]:
    text = payload.decode()
    try:
        json.loads(text)
        return [text]
    except ValueError:
        return text.splitlines()


def _texts_of_image(payload: bytes) -> bytes:
    with Image.open(io.BytesIO(payload)) as image:
        image.load()
        return repr(image.info).encode() + repr(dict(image.getexif())).encode()
