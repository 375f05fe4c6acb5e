"""The chat page in a real browser: against the real server with cria, and, where an answer must be just so, against
one whose answers the test has written. Needs Playwright for Python and Debian's chromium; skips without."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest

import pronk
from pronk.server.settings import HashedKey, ServerSettings
from support.fake_chat_server import DROP, HOLD, Ending, FakeChatServer
from support.serving import Running, serving

playwright = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium (Debian: apt-get install chromium)")

FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
PATIENCE_MS = 240_000  # no test is about speed, and a machine may be busy
SEND = re.compile("^(Send|发送)$")


@dataclass
class Chat:
    """A page, what it wrote to the console, and what a test does with it."""

    page: Any
    complaints: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", lambda message: message.type == "error" and self.complaints.append(message.text))
        self.page.on("dialog", lambda dialog: (self.complaints.append(f"dialog: {dialog.message}"), dialog.dismiss()))

    def open(self, url: str) -> Chat:
        self.page.goto(url)
        self.button(SEND).wait_for()
        return self

    def button(self, name: str | re.Pattern[str]) -> Any:
        return self.page.get_by_role("button", name=name, exact=isinstance(name, str))

    @property
    def composer(self) -> Any:
        return self.page.locator("#composer")

    @property
    def questions(self) -> Any:
        return self.page.locator(".turn.user .question")

    @property
    def answers(self) -> Any:
        return self.page.locator(".turn.assistant")

    def say(self, text: str) -> None:
        self.composer.fill(text)
        self.button(SEND).click()

    def ended(self, count: int = 1) -> None:
        """Waits until the answer in the count-th place is whole: what can be done with it is shown then."""
        playwright.expect(self.answers).to_have_count(count)
        self.answers.nth(count - 1).locator(".actions").wait_for()

    def ask(self, text: str, count: int = 1) -> str:
        """Asks, waits for the answer in the count-th place, and gives its text."""
        self.say(text)
        self.ended(count)
        return self.text_of(count - 1)

    def text_of(self, index: int) -> str:
        return self.answers.nth(index).locator(".prose").inner_text()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright.expect.set_options(timeout=PATIENCE_MS)
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield opened
        opened.close()


@pytest.fixture
def chats(browser: Any) -> Iterator[Any]:
    """Opens pages, each with a storage of its own; afterwards none may have complained of what was not expected."""
    with ExitStack() as stack:
        opened: list[Chat] = []

        def open_chat(url: str, **options: Any) -> Chat:
            settings = {"locale": "en-US", "reduced_motion": "reduce", **options}
            context = stack.enter_context(browser.new_context(**settings))
            context.set_default_timeout(PATIENCE_MS)
            opened.append(Chat(context.new_page()))
            return opened[-1].open(url)

        yield open_chat
        assert [complaint for chat in opened for complaint in chat.complaints] == []


@pytest.fixture
def fake() -> Iterator[FakeChatServer]:
    with FakeChatServer().running() as server:
        yield server


def expect(locator: Any) -> Any:
    return playwright.expect(locator)


# --- with cria ---


def test_question_is_answered_and_kept(server: Running, chats: Any) -> None:
    chat = chats(server.url)
    chat.composer.fill("What is 47 + 38?")
    chat.composer.press("Enter")
    chat.ended()
    assert re.search(r"\d", chat.text_of(0))
    expect(chat.answers.locator(".stats summary")).to_contain_text("tokens")
    expect(chat.page).to_have_title("What is 47 + 38? · pronk")

    chat.page.reload()
    expect(chat.questions).to_have_text("What is 47 + 38?")
    assert re.search(r"\d", chat.text_of(0))


def test_continuing_goes_on_where_the_answer_was_cut(server: Running, chats: Any) -> None:
    chat = chats(server.url)
    chat.button("Settings").click()
    chat.page.get_by_label("Temperature").fill("0")
    chat.page.get_by_label("Longest answer").fill("8")
    chat.button("Done").click()
    begun = chat.ask("Tell me a story about a llama called Pip and a red kettle.")
    expect(chat.answers.locator(".ended")).to_have_text("It reached the limit of its length.")
    chat.button("Continue").click()
    chat.ended()
    expect(chat.answers).to_have_count(1)
    assert chat.text_of(0).startswith(begun)
    assert len(chat.text_of(0)) > len(begun)


def test_server_with_a_key_asks_for_it(chats: Any) -> None:
    settings = ServerSettings(keys=(HashedKey.of("secret"),), drain_seconds=5)
    with pronk.load("cria") as llama, serving(llama, settings=settings) as running:
        chat = chats(running.url)
        field_ = chat.page.get_by_role("dialog").get_by_label("API key")
        field_.fill("wrong")
        chat.button("Use this key").click()
        expect(chat.page.get_by_text("That key was refused.")).to_be_visible()
        field_.fill("secret")
        chat.button("Use this key").click()
        expect(chat.page.get_by_role("dialog")).to_have_count(0)
        chat.ask("Hello")
        kept = chat.page.evaluate("[JSON.stringify({...localStorage}), JSON.stringify({...sessionStorage})]")
        assert "secret" not in kept[0]
        assert "secret" in kept[1]
        chat.complaints[:] = [each for each in chat.complaints if "401" not in each]


# --- answers that are as a test wants them ---


def test_text_comes_as_it_is_written_and_stops_when_told(fake: FakeChatServer, chats: Any) -> None:
    chat = chats(fake.url)
    fake.answer("Once upon a **time", HOLD, "** never sent")
    chat.say("A story")
    expect(chat.answers.locator(".prose strong")).to_have_text("time")  # closed for the reader, though not yet written
    chat.composer.press("Escape")
    chat.ended()
    assert fake.hung_up.wait(60), "the request goes on"
    expect(chat.answers.locator(".ended")).to_have_text("You stopped it here.")
    assert "never" not in chat.text_of(0)


def test_branches(fake: FakeChatServer, chats: Any) -> None:
    chat = chats(fake.url)
    fake.answer("First answer.")
    chat.ask("A question")
    fake.answer("Second answer.")
    chat.answers.get_by_label("Answer again").click()
    expect(chat.answers.locator(".prose")).to_have_text("Second answer.")
    expect(chat.answers.get_by_role("group", name="Branch 2 of 2")).to_be_visible()
    chat.answers.get_by_label("Previous branch").click()
    expect(chat.answers.locator(".prose")).to_have_text("First answer.")

    chat.composer.focus()
    chat.composer.press("ArrowUp")
    editor = chat.page.get_by_label("Edit the message")
    expect(editor).to_be_focused()
    fake.answer("Another answer.")
    editor.fill("Another question")
    editor.press("Enter")
    expect(chat.answers.locator(".prose")).to_have_text("Another answer.")
    chat.page.locator(".turn.user").get_by_label("Previous branch").click()
    expect(chat.questions).to_have_text("A question")
    expect(chat.answers.locator(".prose")).to_have_text("First answer.")
    said = [[message["content"] for message in request["messages"]] for request in fake.requests]
    assert said == [["A question"], ["A question"], ["Another question"]]


def test_lost_connection_keeps_what_came(fake: FakeChatServer, chats: Any) -> None:
    chat = chats(fake.url)
    fake.answer("The beginning, ", DROP)
    chat.ask("A question")
    expect(chat.answers.locator(".ended")).to_contain_text("The connection was lost here.")
    fake.answer("and the end.")
    chat.button("Continue").click()
    expect(chat.answers.locator(".prose")).to_have_text("The beginning, and the end.")
    assert fake.requests[1]["messages"][-1] == {"role": "assistant", "content": "The beginning, "}
    assert fake.requests[1]["continue_final_message"] is True
    chat.complaints[:] = [each for each in chat.complaints if "net::ERR" not in each]


def test_error_is_shown_where_it_happened_and_tried_again(fake: FakeChatServer, chats: Any) -> None:
    chat = chats(fake.url)
    fake.refuse(429, "64 requests wait")
    chat.say("A question")
    expect(chat.answers.get_by_role("alert")).to_contain_text("The server is busy: 64 requests wait")
    fake.answer("Now.")
    chat.answers.get_by_role("button", name="Try again").click()
    expect(chat.answers.locator(".prose")).to_have_text("Now.")
    assert chat.answers.locator(".branches").count() == 0, "the failed answer is no branch"
    chat.complaints[:] = [each for each in chat.complaints if "429" not in each]


def test_tool_call_is_shown_and_its_result_goes_back(fake: FakeChatServer, chats: Any) -> None:
    chat = chats(fake.url)
    chat.page.keyboard.press("Control+.")
    chat.button("Put in an example").click()
    chat.button("Done").click()
    head = {"index": 0, "id": "call_7", "type": "function", "function": {"name": "get_weather", "arguments": ""}}
    rest = {"index": 0, "function": {"arguments": '{"city": "Lima"}'}}
    fake.answer({"tool_calls": [head]}, {"tool_calls": [rest]}, Ending("tool_calls"))
    chat.say("Weather in Lima?")
    expect(chat.answers.locator(".call code")).to_have_text("get_weather")
    expect(chat.answers.locator(".call dd")).to_have_text("Lima")
    fake.answer("It is dry.")
    chat.page.get_by_label("Result of get_weather").fill("dry")
    chat.button("Give the result and go on").click()
    chat.ended(2)
    assert chat.text_of(1) == "It is dry."
    assert fake.requests[0]["tools"][0]["function"]["name"] == "get_weather"
    function = {"name": "get_weather", "arguments": '{"city": "Lima"}'}
    call = {"id": "call_7", "type": "function", "function": function}
    assert fake.requests[1]["messages"][1:] == [
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_7", "content": "dry"},
    ]


def test_settings_of_a_conversation_are_sent_and_are_its_own(fake: FakeChatServer, chats: Any) -> None:
    chat = chats(fake.url)
    chat.button("Settings").click()
    typed = {"System prompt": "Be brief.", "Temperature": "0.5", "Top-k": "7", "Seed": "3", "Stop at": "END\n."}
    for name, value in typed.items():
        chat.page.get_by_label(name).fill(value)
    chat.page.get_by_label("Top-p").fill("3")  # not a probability: said so, and not sent
    expect(chat.page.get_by_text("A number from 0 to 1")).to_be_visible()
    chat.button("Done").click()
    chat.ask("A question")
    chat.button("New conversation").click()
    chat.ask("Another")
    first, second = fake.requests
    assert first["messages"][0] == {"role": "system", "content": "Be brief."}
    wanted = {"temperature": 0.5, "top_k": 7, "seed": 3, "stop": ["END", "."]}
    assert {name: first.get(name) for name in (*wanted, "top_p")} == {**wanted, "top_p": None}
    assert set(second) == {"model", "messages", "stream", "stream_options"}


def test_list_renames_deletes_brings_back_and_searches(fake: FakeChatServer, chats: Any) -> None:
    chat = chats(fake.url)
    fake.answer("About kettles.")
    chat.ask("First question")
    chat.button("New conversation").click()
    chat.ask("Second question")
    titles = chat.page.locator(".list .title")
    expect(titles).to_have_text(["Second question", "First question"])

    titles.nth(1).hover()
    chat.button("Rename “First question”").click()
    chat.page.get_by_label("Rename", exact=True).fill("Kitchen")
    chat.page.get_by_label("Rename", exact=True).press("Enter")
    expect(titles).to_have_text(["Second question", "Kitchen"])

    chat.button("Delete “Second question”").click()
    expect(titles).to_have_text(["Kitchen"])
    chat.button("Undo").click()
    expect(titles).to_have_text(["Second question", "Kitchen"])

    chat.page.keyboard.press("Control+k")
    chat.page.keyboard.type("KETTLES")
    expect(titles).to_have_text(["Kitchen"])
    expect(chat.page.locator(".list .excerpt")).to_have_text("About kettles.")


def test_export_and_import(fake: FakeChatServer, chats: Any) -> None:
    chat = chats(fake.url)
    chat.ask("A question")
    chat.button("Files").click()
    with chat.page.expect_download() as saved:
        chat.button("This conversation as JSON").click()
    content = json.loads(saved.value.path().read_text("utf-8"))
    assert saved.value.suggested_filename == "A question.json"
    assert [turn["text"] for turn in content["conversations"][0]["turns"]] == ["A question", "All right."]
    content["conversations"][0]["title"] = "From a file"
    picked = {"name": "x.json", "mimeType": "application/json", "buffer": json.dumps(content).encode()}
    chat.page.locator("input[type=file]").set_input_files(picked)
    expect(chat.page.locator(".list .title")).to_have_text(["A question", "From a file"])
    chat.button("Files").click()
    chat.page.locator("input[type=file]").set_input_files({**picked, "buffer": b"<html>"})
    expect(chat.page.get_by_text("The file cannot be imported: not JSON")).to_be_visible()


HOSTILE = """<script>alert(1)</script><img src=x onerror=alert(1)> [a](javascript:alert(1))
![pixel](https://elsewhere.invalid/pixel.gif) <style>*{display:none}</style> <iframe src="//elsewhere.invalid"></iframe>

```"><img/src/onerror=alert(1)>
</code></pre><script>alert(1)</script>
```

$\\href{javascript:alert(1)}{x} \\boxed{y} \\htmlStyle{color:red}{z}$ and $$\\boxed{\\frac{a}{b}}$$
"""


def test_hostile_text_does_nothing(fake: FakeChatServer, chats: Any) -> None:
    """Its own tags and addresses are shown; no script runs, nothing is asked for elsewhere, no policy is violated."""
    chat = chats(fake.url)
    asked: list[str] = []
    chat.page.on("request", lambda request: asked.append(request.url))
    fake.answer(*HOSTILE.splitlines(keepends=True))
    chat.ask(HOSTILE)
    expect(chat.answers.locator(".katex").first).to_be_visible()
    assert "<script>" in chat.text_of(0)
    assert chat.page.locator("#app script, #app img, #app iframe, #app style").count() == 0
    assert [url for url in asked if not url.startswith((fake.url, "data:"))] == []
    assert chat.page.locator(".prose a:not([rel~=noopener])").count() == 0
    chat.page.reload()
    expect(chat.answers.locator(".katex").first).to_be_visible()


def test_dark_light_and_chinese_are_chosen_and_remembered(fake: FakeChatServer, chats: Any) -> None:
    chat = chats(fake.url, color_scheme="dark", locale="zh-CN")
    body = chat.page.locator("body")
    colour = "getComputedStyle(document.body).backgroundColor"
    expect(chat.page.locator(".invitation h2")).to_have_text("往哪儿跳一跳？")
    assert chat.page.evaluate("document.documentElement.lang") == "zh-CN"
    dark = chat.page.evaluate(colour)
    chat.button("主题：跟随系统").click()
    expect(body).not_to_have_css("background-color", dark)
    light = chat.page.evaluate(colour)
    chat.button("English").click()
    expect(chat.button("Theme: light")).to_be_visible()
    chat.page.reload()
    expect(chat.button("Theme: light")).to_be_visible()
    expect(body).to_have_css("background-color", light)
    chat.button("Theme: light").click()
    expect(body).to_have_css("background-color", dark)


def test_phone_does_not_scroll_sideways(fake: FakeChatServer, chats: Any) -> None:
    chat = chats(fake.url, viewport={"width": 360, "height": 640}, has_touch=True, is_mobile=True)
    code, table, formula = f"```\n{'x' * 300}\n```", f"| a | b |\n|---|---|\n| {'y' * 200} | z |", f"$${'x+' * 150}x$$"
    fake.answer("\n\n".join((code, table, formula, "w" * 300)))
    chat.ask("q" * 200)
    expect(chat.answers.locator(".katex")).to_be_visible()
    for area in ("document.documentElement", "document.querySelector('.scroller')"):
        assert chat.page.evaluate(f"{area}.scrollWidth <= {area}.clientWidth")
    assert chat.page.locator(".sidebar").is_hidden()
    chat.button("Show the list of conversations").click()
    expect(chat.page.locator(".sidebar")).to_be_visible()


def test_page_works_by_keyboard_and_tells_what_it_is(fake: FakeChatServer, chats: Any) -> None:
    """Every control has a name, dialogs open and close by key, and the answer is told to a screen reader once."""
    chat = chats(fake.url)
    fake.answer("One sentence. ", "And another.")
    chat.ask("A question")
    expect(chat.page.locator("[data-announcer]")).to_contain_text("The answer is complete.")
    chat.page.keyboard.press("Escape")
    chat.page.locator("#composer").evaluate("each => each.blur()")
    chat.page.keyboard.press("?")
    expect(chat.page.get_by_role("dialog", name="Keys, and where things are")).to_be_visible()
    chat.page.keyboard.press("Escape")
    expect(chat.page.get_by_role("dialog")).to_have_count(0)
    nameless = chat.page.evaluate(
        """[...document.querySelectorAll("button, a, input, textarea, select")]
            .filter(each => !(each.getAttribute("aria-label") || each.textContent.trim() || each.labels?.length))
            .map(each => each.outerHTML)"""
    )
    assert nameless == []
