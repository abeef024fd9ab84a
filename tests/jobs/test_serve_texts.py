"""The server for texts: a process of its own under load and attack; the page in a browser, for every task."""

import json
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from kd_lightning.config.schema import Serve
from kd_lightning.deploy.serve.gate import HEADERS
from kd_lightning.deploy.serve.models import facts, given_teacher, stored_teacher
from kd_lightning.deploy.serve.server import ModelAPI, read_page
from kd_lightning.deploy.student import ExportedStudent
from kd_lightning.deploy.texts import TextModel
from tests.jobs.browser import Browser, stop
from tests.jobs.finished import TEXT_TASKS
from tests.jobs.test_serve import Server

TEXTS = ["the old apple", "a pear and some plum near my gold", "rain with hail", "my horn\nand drum", "Größe 😀", "fig"]


@pytest.fixture(scope="module")
def server(text_run, tmp_path_factory):
    started = Server(tmp_path_factory.mktemp("serve"), text_run("classification"), "serve.max_characters=2000")
    try:
        started.wait_for("Ready:")
        yield started
    finally:
        stop(started.process)


def ask(server, text, path="/predict"):
    status, _, body = server.request("POST", path, json.dumps({"text": text}), {"content-type": "application/json"})
    return status, json.loads(body)


def assert_same(answer, expected):
    assert [c["class"] for c in answer["classes"]] == [c["class"] for c in expected["classes"]]
    assert [c["probability"] for c in answer["classes"]] == pytest.approx(
        [c["probability"] for c in expected["classes"]], abs=2e-5
    )


def test_no_text_is_lost_under_load_and_all_equal_the_offline_answers(server, text_run):
    offline = ExportedStudent(text_run("classification")).answer(TEXTS)
    answers = {}

    def client(worker):
        for number in range(12 * worker, 12 * worker + 12):
            answers[number] = ask(server, TEXTS[number % len(TEXTS)])

    threads = [threading.Thread(target=client, args=(worker,)) for worker in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert len(answers) == 96
    assert {status for status, _ in answers.values()} == {200}
    for number, (_, answer) in answers.items():
        assert_same(answer, offline[number % len(TEXTS)])
        assert answer["class"] == answer["classes"][0]["class"]
    assert max(answer["batch"] for _, answer in answers.values()) > 1


def test_the_teacher_answers_as_it_does_offline(server, text_run):
    run = text_run("classification")
    student = ExportedStudent(run)
    teacher = stored_teacher(json.loads((run / "export" / "export.json").read_text())["teacher"]["folder"])
    expected = TextModel(teacher, student.reader, student.preprocessing).answer(TEXTS[:1])[0]
    status, answer = ask(server, TEXTS[0], "/predict/teacher")
    assert status == 200
    assert_same(answer, expected)


# What the gate alone refuses is tested in tests/deploy/test_gate.py.
@pytest.mark.parametrize(
    ("body", "kind", "expected", "words"),
    [
        (b"", "application/json", 400, "empty"),
        (b'{"text": 1}', "application/json", 400, 'under "text"'),
        (b'{"text": "\xff"}', "application/json", 400, "UTF-8"),
        (b'{"text": "a\\u0000"}', "application/json", 422, "U+0000"),
        (json.dumps({"text": "x" * 2001}), "application/json", 413, "2,001 characters"),
        (bytes(30_000_000), "application/json", 413, "at most 2,000 characters"),
        (b"a text", "text/plain", 415, "text/plain"),
    ],
)
def test_what_cannot_be_answered_is_refused_and_the_next_is_answered(server, body, kind, expected, words):
    status, _, answer = server.request("POST", "/predict", body, {"content-type": kind})
    assert (status, words in json.loads(answer)["detail"]) == (expected, True), answer
    assert ask(server, "<script>alert(1)</script> </s> <mask> \u202e [SEP]")[0] == 200
    assert ask(server, "x" * 2000)[1]["cut"] is True
    assert "Traceback" not in server.log.read_text()


def test_an_answer_that_is_none_is_refused_alone(text_run):
    run = text_run("masked_lm")
    api = ModelAPI(lambda: ExportedStudent(run), api_path="/predict")
    student = ExportedStudent(run)
    api._model = TextModel(student.run, student.reader, student.preprocessing)
    # The mask lies beyond what the student reads, so that the gate cannot know.
    answers = api.predict(api.batch([api.decode_request({"text": t}) for t in ("a <mask>", "x" * 100 + "<mask>")]))
    good, bad = (api.encode_response(answer) for answer in answers)
    assert good["class"] == good["classes"][0]["class"]
    assert (bad.status_code, "64 tokens" in json.loads(bad.body)["detail"]) == (422, True)


def page_server(run):
    """The page, with answers of the exported student, without processes: what the page shows is looked at here."""
    student, export = ExportedStudent(run), run / "export"
    record = json.loads((export / "export.json").read_text())
    stored = (record["teacher"] or {}).get("folder")
    teacher = stored_teacher(stored) if stored else given_teacher(export / "config.yaml")
    api = {}
    for path, runner in {"/predict": student.run, "/predict/teacher": teacher}.items():
        api[path] = ModelAPI(lambda: None, api_path=path)
        api[path]._model = TextModel(runner, student.reader, student.preprocessing, new_tokens=8)
    told = facts(Serve(), record, student.preprocessing, teacher)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            page = self.path == "/"
            self.reply(
                read_page() if page else json.dumps({"model": told}), "text/html" if page else "application/json"
            )

        def do_POST(self):
            request = json.loads(self.rfile.read(int(self.headers["content-length"])))
            self.reply(json.dumps(api[self.path].predict(api[self.path].decode_request(request))), "application/json")

        def reply(self, content, kind):
            self.send_response(200)
            for name, value in {**HEADERS, "content-type": f"{kind}; charset=utf-8"}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content.encode())

        def log_message(self, *_):
            pass

    return ThreadingHTTPServer(("127.0.0.1", 0), Handler), {path: one._model for path, one in api.items()}


VERDICTS = {
    "classification": "Student and teacher ",
    "masked_lm": "Student and teacher ",
    "causal_lm": "Student and teacher ",
    "regression": "apart",
    "token_classification": "of 5 words",
    "embedding": "Cosine of student and teacher: ",
}


def shown_of(task, answer, text):
    """What the page must say of an answer."""
    if task == "classification":
        return [answer["classes"][0]["class"], *[c["class"] for c in answer["classes"]]]
    if task == "token_classification":
        return [piece for pair in answer["tokens"] for piece in pair]
    if task == "masked_lm":
        return [f"{100 * c['probability']:.1f} %" for c in answer["classes"]]
    return {
        "regression": lambda: [f"{answer['value']:.4g}"[:4]],
        "causal_lm": lambda: [(text + answer["continuation"]).split()[0]],
        "embedding": lambda: [f"{len(answer['embedding'])} numbers"],
    }[task]()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("browser") / "profile") as page:
        yield page


@pytest.mark.browser
@pytest.mark.parametrize("task", TEXT_TASKS)
def test_a_text_is_tried_in_a_browser(text_run, browser, task):
    server, models = page_server(text_run(task))
    threading.Thread(target=partial(server.serve_forever, 0.05), daemon=True).start()
    text = "the old <mask>pple and <b>pear</b>" if task == "masked_lm" else "the old apple and <b>pear</b>"
    try:
        browser.requests.clear()
        browser.send("Page.navigate", url=f"http://127.0.0.1:{server.server_port}/")
        browser.wait("document.querySelector('#teacher h2') !== null")
        assert browser.evaluate("document.querySelector('#drop').checkVisibility()") is False
        assert browser.evaluate("document.querySelector('#go').disabled") is True
        assert browser.names("form") == ["Text"]
        assert len(browser.names("textbox")) == 1
        browser.evaluate("document.querySelector('#text').focus()")
        browser.send("Input.insertText", text=text)
        assert f"{len(text)} of 10,000" in browser.evaluate("document.querySelector('#count').textContent")
        browser.evaluate("document.querySelector('#go').click()")
        browser.wait("document.querySelector('#verdict').textContent !== ''")
        answers = {}
        for role, path in {"student": "/predict", "teacher": "/predict/teacher"}.items():
            answers[role] = models[path].answer([text])[0]
            panel = browser.evaluate(f"document.querySelector('#{role}').textContent")
            for piece in shown_of(task, answers[role], text):
                assert piece in panel
            assert "ms in the model" in panel
        assert browser.evaluate("document.querySelectorAll('#student b b, .panel b > *').length") == 0
        verdict = browser.evaluate("document.querySelector('#verdict').textContent")
        assert VERDICTS[task] in verdict
        if task in ("classification", "masked_lm"):
            alike = answers["student"]["classes"][0]["class"] == answers["teacher"]["classes"][0]["class"]
            assert ("differ" in verdict) != alike
        inks = []
        for scheme in ("light", "dark"):
            browser.scheme(scheme)
            inks.append(browser.evaluate("getComputedStyle(document.querySelector('#text')).color"))
        assert inks[0] != inks[1]
        outside = [u for u in browser.requests if f"//127.0.0.1:{server.server_port}/" not in u]
        assert not [url for url in outside if not url.startswith(("data:", "about:"))]
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.browser
def test_the_real_server_refuses_in_words_that_the_page_shows(server, browser):
    browser.send("Page.navigate", url=f"http://127.0.0.1:{server.port}/")
    browser.wait("document.querySelector('#teacher h2') !== null")
    browser.evaluate("document.querySelector('#text').focus()")
    browser.send("Input.insertText", text="a bell \u0007")
    browser.evaluate("document.querySelector('#go').click()")
    browser.wait("!document.querySelector('#error').hidden")
    assert "control character (U+0007)" in browser.evaluate("document.querySelector('#error').textContent")
    browser.send("Input.insertText", text="x" * 2000)
    assert browser.evaluate("document.querySelector('#go').disabled") is True


@pytest.mark.parametrize("name", ["max_characters", "new_tokens"])
def test_limits_are_positive(cli, text_run, name):
    outcome = cli("job=serve", f"run={text_run('classification')}", f"serve.{name}=0")
    assert (outcome.code, f"serve.{name}=0: it must be a whole number from 1" in outcome.text) == (1, True), (
        outcome.text
    )
