"""The page as a program uses it: the real server, asked by Gradio's own client."""

import json
import socket
import threading
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import httpx
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

import finetune
from finetune.web.forms import FREE
from finetune.web.result import DemoResult
from tests.web.conftest import QUESTION

TASK = "Task of the run"


@pytest.fixture(scope="module")
def client(page: DemoResult) -> Client:
    return Client(page.url, verbose=False, httpx_kwargs={"trust_env": False})


Ask = Callable[..., Any]


@pytest.fixture
def ask(client: Client) -> Ask:
    """Ask about one image, and return the drawn image, what is shown, and the row."""

    def call(image: Any, form: str = TASK, question: str = QUESTION, prompt: str = "") -> Any:
        given = handle_file(image) if isinstance(image, str | Path) else image
        drawn, shown, row = client.predict(given, form, question, prompt, api_name="/ask")
        return drawn["value"], shown, row

    return call


def test_the_page_answers_as_predict_does(ask: Ask, demo_run: Path) -> None:
    image = demo_run.parent / "letter-0.png"
    _, shown, row = ask(str(image))
    [expected] = finetune.predict(run=demo_run, image=image, question=QUESTION).rows
    assert row == {**expected, "image": "letter-0.png"}
    assert row["prediction"] in shown
    assert f"{100 * row['confidence']:.0f} % confidence" in shown


def test_boxes_are_drawn_and_listed(ask: Ask, demo_run: Path) -> None:
    image = demo_run.parent / "letter-0.png"
    drawn, shown, row = ask(str(image), FREE, "", "detect letter")
    assert row["prediction_objects"]
    assert f"{len(row['prediction_objects'])} object" in shown
    assert shown.count("ft-swatch") == len(row["prediction_objects"])
    with Image.open(drawn) as opened:
        assert min(opened.size) >= 320
        assert len(opened.convert("RGB").getcolors(1 << 24) or ()) > 1


def test_several_images_are_a_table_and_lines_as_predict_writes_them(
    client: Client, demo_run: Path
) -> None:
    images = [demo_run.parent / f"letter-{number}.png" for number in range(3)]
    broken = demo_run.parent / "broken.png"
    broken.write_text("no image")
    files = [handle_file(str(image)) for image in [images[0], broken, *images[1:], images[0]]]
    shown, download = client.predict(files, TASK, QUESTION, "", api_name="/ask_all")
    rows = [json.loads(line) for line in Path(download["value"]).read_text().splitlines()]
    expected = list(finetune.predict(run=demo_run, image=images, question=QUESTION).rows)
    named = [{**row, "image": image.name} for row, image in zip(expected, images, strict=True)]
    assert rows == [*named, named[0]]
    assert "4 of 5 images answered, 1 left out" in shown
    assert "broken.png` is not an image" in shown
    assert shown.count("data:image/") == 4


def write_huge(folder: Path) -> Path:
    """A small file with the header of an image of 10^10 pixels."""
    file = folder / "huge.png"
    Image.new("1", (100_000, 1)).save(file)
    content = bytearray(file.read_bytes())
    content[20:24] = (100_000).to_bytes(4, "big")
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    file.write_bytes(content)
    return file


def write_text(folder: Path) -> Path:
    file = folder / "text.png"
    file.write_text("no image")
    return file


def write_vector(folder: Path) -> Path:
    file = folder / "drawing.svg"
    file.write_text('<svg xmlns="http://www.w3.org/2000/svg"/>')
    return file


@pytest.mark.parametrize(
    ("write", "message"),
    [
        pytest.param(write_text, r"image `text\.png` is not an image that Pillow can read", id="text"),
        pytest.param(write_huge, r"image `huge\.png` is too large: .* Make it smaller", id="huge"),
        pytest.param(write_vector, r"image `drawing\.svg` is not an image", id="svg"),
    ],
)
def test_a_file_that_cannot_be_used_is_a_message(
    ask: Ask, tmp_path: Path, write: Callable[[Path], Path], message: str
) -> None:
    with pytest.raises(AppError, match=message):
        ask(str(write(tmp_path)))


@pytest.mark.parametrize(
    ("form", "question", "prompt", "message"),
    [
        pytest.param(TASK, " ", "", "Fill in: question", id="no question"),
        pytest.param(FREE, "", "", "Write a prompt", id="no prompt"),
        pytest.param(FREE, "", "word " * 3000, "too long: it has", id="long"),
        pytest.param("other", "", "", "not in the list|No form", id="no form"),
    ],
)
def test_a_prompt_that_cannot_be_asked_is_a_message(
    ask: Ask, demo_run: Path, form: str, question: str, prompt: str, message: str
) -> None:
    with pytest.raises((AppError, ValueError), match=message) as caught:
        ask(str(demo_run.parent / "letter-0.png"), form, question, prompt)
    assert "/tmp" not in str(caught.value)


def test_an_image_is_asked_for(ask: Ask) -> None:
    with pytest.raises(AppError, match="Which image"):
        ask(None)


def test_too_many_images_are_a_message(client: Client, demo_run: Path) -> None:
    files = [handle_file(str(demo_run.parent / "letter-0.png"))] * 6
    with pytest.raises(AppError, match="at most 5 images at once, but got 6"):
        client.predict(files, TASK, QUESTION, "", api_name="/ask_all")


def test_a_large_file_is_refused_by_the_server(page: DemoResult) -> None:
    content = {"files": ("large.png", bytes(200_000))}
    answer = httpx.post(f"{page.url}/gradio_api/upload", files=content, trust_env=False)
    assert answer.status_code == 413
    assert "maximum allowed size of 100000 bytes" in answer.text


class _Counter(BaseHTTPRequestHandler):
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(404)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def elsewhere() -> Iterator[str]:
    """Another server, which counts the requests that it gets."""
    _Counter.asked.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Counter)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/cat.png"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("which", ["file", "address"])
def test_only_uploaded_files_are_read(page: DemoResult, demo_run: Path, elsewhere: str, which: str) -> None:
    """What a program may send, unlike Gradio's client: a path of this machine, or an address."""
    path = elsewhere if which == "address" else str(demo_run.parent / "letter-0.png")
    file = {"path": path, "meta": {"_type": "gradio.FileData"}, "orig_name": "cat.png"}
    with httpx.Client(base_url=f"{page.url}/gradio_api/call", trust_env=False) as raw:
        for sent in (file, {"path": path, "url": path}):
            event = raw.post("ask", json={"data": [sent, TASK, QUESTION, ""]}).json()["event_id"]
            answer = raw.get(f"ask/{event}").text
            assert answer.startswith("event: error")
            assert "not read" in answer or "not uploaded" in answer
    assert _Counter.asked == []


@pytest.mark.parametrize(
    "path",
    [
        pytest.param("/gradio_api/file={run}/config.yaml", id="run"),
        pytest.param("/gradio_api/file=/etc/hostname", id="system"),
        pytest.param("/gradio_api/file=https://example.com/", id="address"),
        pytest.param("/gradio_api/file=HTTPS%3A//example.com/", id="quoted address"),
        pytest.param("/gradio_api/proxy=https://example.com/", id="proxy"),
        pytest.param("/monitoring/summary", id="monitoring"),
    ],
)
def test_the_server_has_nothing_but_the_page(page: DemoResult, demo_run: Path, path: str) -> None:
    answer = httpx.get(page.url + path.format(run=demo_run), trust_env=False)
    assert answer.status_code == 403


def test_nothing_that_a_user_writes_becomes_markup(ask: Ask, demo_run: Path) -> None:
    attack = "<img src=x onerror=alert(1)>"
    with pytest.raises(AppError) as caught:
        ask(str(demo_run.parent / "letter-0.png"), FREE, "", attack * 800)
    assert "<img" not in str(caught.value)


def test_callers_at_the_same_time_get_their_own_answers(page: DemoResult, demo_run: Path) -> None:
    images = [str(demo_run.parent / f"letter-{number % 3}.png") for number in range(6)]
    expected = finetune.predict(run=demo_run, image=images[:3], prefix="detect letter").rows

    def call(image: str) -> Any:
        mine = Client(page.url, verbose=False, httpx_kwargs={"trust_env": False})
        return mine.predict(handle_file(image), FREE, "", "detect letter", api_name="/ask")[2]

    with ThreadPoolExecutor(6) as pool:
        rows = list(pool.map(call, images))
    assert [row["prediction"] for row in rows] == [row["prediction"] for row in expected] * 2
    assert len({row["prediction"] for row in rows}) > 1


def test_a_closed_page_frees_its_port(demo_run: Path) -> None:
    served = finetune.demo(run=demo_run, port=0, examples=0)
    port = int(served.url.rpartition(":")[2])
    assert httpx.get(served.url, trust_env=False).status_code == 200
    served.close()
    served.close()
    with socket.socket() as free:
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        free.bind(("127.0.0.1", port))


def test_a_checkpoint_without_a_run_is_shown_too(demo_run: Path) -> None:
    with finetune.demo(model="tiny", port=None, prefix="detect letter") as served:
        mine = Client(served.url, verbose=False, httpx_kwargs={"trust_env": False})
        image = handle_file(str(demo_run.parent / "letter-0.png"))
        row = mine.predict(image, api_name="/ask")[2]
    assert row["prefix"] == "detect letter"
    assert row["prediction_objects"]
