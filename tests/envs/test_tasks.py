"""Tasks, their spelling, and data files that are damaged, missing or half downloaded."""

import gzip
import hashlib
import http.server
import math
import threading

import numpy as np
import pytest
import torch
from conftest import have, needs_mnist

import lrcontrol
from lrcontrol.envs import InputError, Task, data, make_task, mlp
from lrcontrol.envs.seeding import build_module
from lrcontrol.envs.spec import split_spec
from lrcontrol.envs.text import GPT

X, Y = torch.zeros(8, 4), torch.zeros(8, dtype=torch.int64)


def task(**changes):
    return Task(**{"model": lambda: mlp(4, 2), "train": (X, Y), "batch_size": 4, "steps": 5, **changes})


def test_digits_are_split_once_and_for_all():
    digits = make_task("digits-mlp")
    assert [len(part) for part in (*digits.train, *digits.test)] == [1437, 1437, 360, 360]
    assert float(digits.train[0].min()) == 0.0
    assert float(digits.train[0].max()) == 1.0
    rows = {row.numpy().tobytes() for row in digits.train[0]}
    assert not rows & {row.numpy().tobytes() for row in digits.test[0]}
    assert torch.equal(make_task("digits-mlp").train[0], digits.train[0])


@needs_mnist
def test_mnist_is_read_as_published():
    raw = make_task("mnist-mlp-raw")
    assert raw.train[0].shape == (60000, 784)
    assert float(raw.train[0].max()) == 255.0
    assert torch.bincount(raw.train[1]).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert raw.train[1][:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    scaled = make_task("mnist-mlp")
    assert float(scaled.test[0].max()) == 1.0
    assert torch.equal(scaled.train[0] * 255.0, raw.train[0])


def test_a_value_that_is_a_spelling_takes_the_rest():
    assert split_spec("a:b=1,,c=d:e=2,f=g:h=3") == ("a", {"b": "1", "c": "d:e=2,f=g:h=3"})
    assert split_spec("a:b=c,d=e") == ("a", {"b": "c", "d": "e"})


def test_a_task_is_called_by_its_keys_so_that_two_of_one_kind_are_told_apart():
    names = ("quadratic", "quadratic:conditioning=1000,steps=9", "random-quadratic:index=3")
    assert [make_task(name).name for name in names] == list(names)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("digit-mlp", "did you mean 'digits-mlp'"),
        ("quadratic:conditionin=3", "did you mean 'conditioning'"),
        ("quadratic:conditioning=x", "not a number"),
        ("quadratic:dimension=1.5", "not a whole number"),
        ("quadratic:conditioning", "name:key=value"),
        ("quadratic:noise=1,noise=2", "given twice"),
        ("quadratic:noise=-1", "noise -1.0 is not a number of 0 or more"),
        ("quadratic:conditioning=0.5", "conditioning 0.5 is not a number of 1 or more"),
        ("digits-mlp:width=3", "takes no keys"),
    ],
)
def test_spellings_that_cannot_be_read_say_why(text, complaint):
    with pytest.raises(InputError, match=complaint):
        make_task(text)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"model": mlp(4, 2)}, "model=lambda: Sequential"),
        ({"train": (X, Y[:7])}, "8 inputs and 7 targets"),
        ({"train": (X[:0], Y[:0])}, "0 inputs"),
        ({"train": (X.numpy(), Y)}, "pair of tensors"),
        ({"train": (X.index_fill(0, torch.tensor([3]), torch.nan), Y)}, "1 of 8 rows .* first at row 3"),
        ({"test": (X.index_fill(0, torch.tensor([5]), torch.inf), Y)}, "test inputs hold NaN .* first at row 5"),
        ({"batch_size": 9}, "batch_size 9"),
        ({"batch_size": 0}, "batch_size 0"),
        ({"steps": 0}, "steps 0"),
        ({"lr0_range": {"sgd": (0.0, 1.0)}}, "lr0_range"),
        ({"probe_direction": "up"}, "probe_direction 'up'"),
    ],
)
def test_tasks_that_cannot_be_trained_say_why(changes, complaint):
    with pytest.raises(InputError, match=complaint):
        task(**changes)


@pytest.fixture
def tiny_data_set(monkeypatch, tmp_path):
    """Stand in for MNIST: one small file, known to the project by its sum, and an empty cache."""
    import pooch

    labels = np.random.default_rng(0).integers(0, 256, 400_000, dtype=np.uint8).tobytes()
    content = gzip.compress(bytes([0, 0, 8, 1]) + len(labels).to_bytes(4, "big") + labels, mtime=0)
    name = "train-labels-idx1-ubyte.gz"
    monkeypatch.setitem(data.MD5, "mnist", {name: hashlib.md5(content).hexdigest()})
    monkeypatch.delenv("LRCONTROL_DATA", raising=False)
    monkeypatch.setattr(pooch, "os_cache", lambda project: tmp_path / "cache")
    return name, content


def test_a_data_file_is_found_in_lrcontrol_data_and_refused_when_damaged(tiny_data_set, tmp_path, monkeypatch):
    name, content = tiny_data_set
    path = tmp_path / "data" / "mnist" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    monkeypatch.setenv("LRCONTROL_DATA", str(tmp_path / "data"))
    assert data.data_file("mnist", name) == path
    expected = np.random.default_rng(0).integers(0, 256, 400_000, dtype=np.uint8)
    np.testing.assert_array_equal(data._read_idx(path), expected)
    path.write_bytes(content[:-1] + b"x")
    with pytest.raises(InputError, match="is damaged: its md5 is"):
        data.data_file("mnist", name)


def test_without_a_network_the_error_says_where_to_put_the_file(tiny_data_set, monkeypatch):
    monkeypatch.setitem(data.MIRRORS, "mnist", "http://127.0.0.1:9/")  # the discard port: nobody answers
    with pytest.raises(InputError, match=r"put the file at FOLDER/mnist/train-labels.* LRCONTROL_DATA=FOLDER"):
        data.data_file("mnist", tiny_data_set[0])


class RangeServer(http.server.BaseHTTPRequestHandler):
    """Serves one file, in parts if asked; breaks off the first answer half way."""

    content = b""
    ranges: list = []  # noqa: RUF012 (set anew by the test)

    def do_GET(self):
        asked = self.headers.get("Range")
        self.ranges.append(asked)
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(self.content) - start))
        self.end_headers()
        stop = len(self.content) // 2 if len(self.ranges) == 1 else len(self.content)
        self.wfile.write(self.content[start:stop])
        self.close_connection = True

    def log_message(self, *arguments):
        pass


def test_an_interrupted_download_goes_on_where_it_stopped(tiny_data_set, monkeypatch, tmp_path):
    name, content = tiny_data_set
    RangeServer.content, RangeServer.ranges = content, []
    server = http.server.HTTPServer(("127.0.0.1", 0), RangeServer)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        monkeypatch.setitem(data.MIRRORS, "mnist", f"http://127.0.0.1:{server.server_port}/")
        with pytest.raises(InputError, match="cannot download"):
            data.data_file("mnist", name)
        path = data.data_file("mnist", name)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    first, second = RangeServer.ranges
    assert first is None
    assert 0 < int(second.removeprefix("bytes=").rstrip("-")) <= len(content) // 2
    assert path.read_bytes() == content
    assert [p.name for p in path.parent.iterdir()] == [name]
    assert path.is_relative_to(tmp_path / "cache")


def test_the_sums_are_the_published_ones():
    """The sums that torchvision and the data sets' own pages give; read here so that an edit does not go unseen."""
    assert data.MD5["mnist"]["train-images-idx3-ubyte.gz"] == "f68b3c2dcbeaaa9fbdd348bbdeb94873"
    assert data.MD5["fashion_mnist"]["train-images-idx3-ubyte.gz"] == "8d4fb7e6c68d591d4c3dfef9ec88bf0d"
    assert data.MD5["tinyshakespeare"] == {"input.txt": "6fb458f1232090904fb40fe944165e91"}
    assert [len(files) for files in data.MD5.values()] == [4, 4, 1]


@pytest.mark.skipif(not have("fashion_mnist"), reason="fashion_mnist is not in LRCONTROL_DATA")
def test_fashion_mnist_is_balanced_as_published():
    fashion = make_task("fashion-mnist-mlp")
    assert torch.bincount(fashion.train[1]).tolist() == [6000] * 10
    assert torch.bincount(fashion.test[1]).tolist() == [1000] * 10


def test_the_transformer_looks_back_only_and_attends_as_torch_does():
    gpt = build_module(lambda: GPT(tokens=11, context=8, width=12, heads=3, blocks=2), 0)
    x = torch.randint(11, (2, 8), generator=torch.Generator().manual_seed(0))
    changed = x.clone()
    changed[:, 5] = (x[:, 5] + 1) % 11
    before, after = gpt(x), gpt(changed)
    torch.testing.assert_close(before[:, :5], after[:, :5])
    assert (before[:, 5:] - after[:, 5:]).abs().amax(dim=-1).min() > 0.0
    block, stream = gpt.blocks[0], torch.randn(2, 8, 12, generator=torch.Generator().manual_seed(1))
    query, key, value = (part.view(2, 8, 3, 4).transpose(1, 2) for part in block.project_in(stream).chunk(3, dim=-1))
    taken = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
    torch.testing.assert_close(block.attend(stream), block.project_out(taken.transpose(1, 2).reshape(2, 8, 12)))


@pytest.mark.skipif(not have("tinyshakespeare"), reason="tinyshakespeare is not in LRCONTROL_DATA")
def test_shakespeare_is_text_that_has_to_be_guessed_a_character_ahead():
    task = make_task("shakespeare-gpt")
    (inputs, targets), (held, _) = task.train, task.test
    assert torch.equal(inputs.flatten()[1:], targets.flatten()[:-1])
    assert inputs.numel() == 1 << 18
    assert held.numel() == 1 << 15
    module = build_module(task.model, 0)
    assert 200_000 <= sum(p.numel() for p in module.parameters()) <= 1_000_000
    with torch.no_grad():
        assert float(task.loss(module(inputs[:16]), targets[:16])) == pytest.approx(math.log(65), abs=0.1)


@needs_mnist
def test_the_autoencoder_has_its_input_for_target():
    task = make_task("mnist-autoencoder")
    assert task.train[0] is task.train[1]
    assert task.train[0].shape == (60_000, 784)
    module = build_module(task.model, 0)
    assert min(part.out_features for part in module if hasattr(part, "out_features")) == 32


def test_a_module_of_ones_own_trains_with_mean_squared_error():
    """torch's batching rule of F.mse_loss fails where vmaps are nested: several rates, one stream of minibatches."""

    class Line(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(3, 1)

        def forward(self, x):
            return self.layer(x)

    x = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    data = (x, x.sum(dim=1, keepdim=True))
    plain, own = (
        Task(model=model, train=data, loss=torch.nn.functional.mse_loss, batch_size=16, steps=10)
        for model in (lambda: torch.nn.Sequential(torch.nn.Linear(3, 1)), Line)
    )
    losses = [
        lrcontrol.evaluate(t, ["constant"], lr0=[0.01, 0.1, 0.2], runs=2).by_start("constant") for t in (plain, own)
    ]
    np.testing.assert_allclose(*losses, rtol=1e-5)
