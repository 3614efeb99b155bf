"""The data sets that must be fetched: found in ``LRCONTROL_DATA`` or downloaded once, checksummed either way."""

from __future__ import annotations

import functools
import gzip
import os
import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from lrcontrol.envs.errors import InputError
from lrcontrol.envs.task import Data

MIRRORS = {
    "mnist": "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "fashion_mnist": "https://fashion-mnist.s3.eu-central-1.amazonaws.com/",
    "tinyshakespeare": "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/",
}
MD5 = {
    "mnist": {
        "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
        "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
        "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
    },
    "fashion_mnist": {
        "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
        "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
        "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
    },
    "tinyshakespeare": {"input.txt": "6fb458f1232090904fb40fe944165e91"},
}


def data_file(dataset: str, name: str) -> Path:
    """Return the path of one checked file: from ``LRCONTROL_DATA`` where it has it, else downloaded into the cache.

    An interrupted download goes on where it stopped.

    Raises:
        InputError: the file in ``LRCONTROL_DATA`` is damaged, or the download failed.
    """
    import pooch

    known = MD5[dataset][name]
    folder = os.environ.get("LRCONTROL_DATA")
    if folder and (local := Path(folder, dataset, name)).is_file():
        found = pooch.file_hash(str(local), alg="md5")
        if found != known:
            raise InputError(
                f"{local} is damaged: its md5 is {found}, not {known}; delete it to have it downloaded again"
            )
        return local
    pooch.get_logger().setLevel("ERROR")
    cache = Path(pooch.os_cache("lrcontrol"), dataset)
    try:
        path = pooch.retrieve(
            MIRRORS[dataset] + name, f"md5:{known}", fname=name, path=cache, downloader=_download, progressbar=False
        )
    except (OSError, ValueError) as error:
        raise InputError(
            f"cannot download {MIRRORS[dataset] + name} ({type(error).__name__}): without a network, put the file at "
            f"FOLDER/{dataset}/{name} and set LRCONTROL_DATA=FOLDER (now {folder or 'not set'})"
        ) from error
    return Path(path)


def _download(url: str, output_file: str, pooch: object) -> None:
    """Fetch ``url`` for pooch by way of a ``.part`` file beside the target, which the next try continues."""
    import requests
    from rich.progress import Progress

    target = Path(output_file).with_name(url.rsplit("/", 1)[-1] + ".part")
    start = target.stat().st_size if target.exists() else 0
    headers = {"Range": f"bytes={start}-"} if start else {}
    with requests.get(url, headers=headers, stream=True, timeout=30) as response:
        if response.status_code == requests.codes.requested_range_not_satisfiable:
            target.unlink()
            raise OSError("the partial download did not fit the file and is deleted: try again")
        response.raise_for_status()
        resumed = response.status_code == requests.codes.partial_content
        total = int(response.headers.get("Content-Length", 0)) + (start if resumed else 0)
        mode = "ab" if resumed else "wb"
        with Progress(transient=True, disable=not sys.stderr.isatty()) as progress, target.open(mode) as out:
            bar = progress.add_task(target.stem, total=total or None, completed=start if resumed else 0)
            for chunk in response.iter_content(1 << 16):
                out.write(chunk)
                progress.advance(bar, len(chunk))
    target.replace(output_file)


def _read_idx(path: Path) -> NDArray[np.uint8]:
    """Return the array of an IDX file of bytes: magic 0, 0, 8, number of axes, then each axis as big-endian int32."""
    content = gzip.decompress(path.read_bytes())
    axes = content[3]
    shape = np.frombuffer(content, ">i4", count=axes, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(tuple(int(n) for n in shape))


@functools.cache
def load_images(dataset: str) -> tuple[Data, Data]:
    """Return (train, test) of ``"mnist"`` or ``"fashion_mnist"``: uint8 images (N, 28, 28), int64 labels (N,)."""

    def split(prefix: str) -> Data:
        images = _read_idx(data_file(dataset, f"{prefix}-images-idx3-ubyte.gz"))
        labels = _read_idx(data_file(dataset, f"{prefix}-labels-idx1-ubyte.gz"))
        return torch.from_numpy(images.copy()), torch.from_numpy(labels.astype(np.int64))

    return split("train"), split("t10k")
