"use strict";
const at = id => document.getElementById(id);
const make = (tag, text, name) => {
  const node = document.createElement(tag);
  if (text !== undefined) node.textContent = text;
  if (name) node.className = name;
  return node;
};
const percent = value => (100 * value).toFixed(1) + " %";
const PATHS = {student: "predict", teacher: "predict/teacher"};
let facts = null, newest = 0;

function size(bytes) {
  return bytes < 1e6 ? Math.round(bytes / 1e3) + " kB" : (bytes / 1e6).toFixed(1) + " MB";
}

function describe(role) {
  const model = facts[role];
  const parts = [model.format, model.bytes ? size(model.bytes) : null,
    model.accuracy == null ? null : `${percent(model.accuracy)} ${facts.score}`];
  return parts.filter(Boolean).join(" · ");
}

// A token may be nothing but white space.
const visible = text => text.trim() ? text : text.replaceAll(" ", "␣").replaceAll("\n", "⏎").replaceAll("\t", "⇥") || "(nothing)";

function bars(classes) {
  const list = make("ol");
  for (const {"class": label, probability} of classes) {
    const item = make("li"), bar = make("div", undefined, "bar"), fill = make("i");
    fill.style.width = percent(probability).replace(" ", "");
    bar.append(fill);
    bar.setAttribute("aria-hidden", "true");
    item.append(make("span", visible(label)), make("span", percent(probability)), bar);
    list.append(item);
  }
  return list;
}

function passage(...parts) {  // [text, tag, class] ...
  const node = make("p", undefined, "passage");
  for (const part of parts) node.append(make(...part));
  return node;
}

// How an answer is shown, and what the two answers have to do with each other: [in words, whether alike].
const same = (a, b) => a === b ? ["Student and teacher agree.", true] : ["Student and teacher differ.", false];
const VIEWS = {
  classes: {
    show: answer => [make("p", answer["class"], "answer"), bars(answer.classes)],
    compare: (student, teacher) => same(student["class"], teacher["class"]),
  },
  fill: {
    show: (answer, text) => {
      const at = text.indexOf(facts.mask);
      const before = text.slice(0, at), found = answer["class"].replace(/^##/, "");
      return [passage(["span", before], ["b", visible(before.endsWith(" ") && found.trim() ? found.trimStart() : found)],
        ["span", text.slice(at + facts.mask.length)]), bars(answer.classes)];
    },
    compare: (student, teacher) => same(student["class"], teacher["class"]),
  },
  value: {
    show: answer => [make("p", answer.value.toPrecision(4), "answer")],
    compare: (student, teacher) =>
      [`Student and teacher lie ${Math.abs(student.value - teacher.value).toPrecision(2)} apart.`, null],
  },
  words: {
    show: answer => {
      const row = make("div", undefined, "words");
      for (const [word, label] of answer.tokens) {
        const chip = make("span", word, label === "O" ? "none" : "");
        chip.append(make("small", label));
        row.append(chip);
      }
      return [row];
    },
    compare: (student, teacher) => {
      const total = student.tokens.length, alike = student.tokens.filter((t, i) => t[1] === teacher.tokens[i][1]).length;
      return [`Student and teacher agree on ${alike} of ${total} words.`, alike === total];
    },
  },
  continuation: {
    show: (answer, text) => [passage(["span", text, "given"], ["b", answer.continuation || " (the end)"])],
    compare: (student, teacher) => same(student.continuation, teacher.continuation),
  },
  embedding: {
    show: answer => {
      const largest = Math.max(...answer.embedding.map(Math.abs)) || 1, strip = make("div", undefined, "strip");
      for (const value of answer.embedding) {
        const bar = make("i");
        bar.style.height = `${50 * Math.abs(value) / largest}%`;
        bar.style.transform = `translateY(${value < 0 ? 50 : -50}%)`;
        strip.append(bar);
      }
      strip.setAttribute("aria-hidden", "true");
      return [strip, make("p", `${answer.embedding.length} numbers, the largest ${largest.toPrecision(3)}`, "soft")];
    },
    compare: (student, teacher) => {
      const [a, b] = [student.embedding, teacher.embedding];
      if (a.length !== b.length) return ["Student and teacher have embeddings of different widths.", null];
      const dot = (x, y) => x.reduce((sum, value, i) => sum + value * y[i], 0);
      return [`Cosine of student and teacher: ${(dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b))).toFixed(3)}`, null];
    },
  },
};

function show(role, answer, roundTrip, given) {
  const panel = at(role);
  const name = make("h2", (role === "student" ? "Student " : "Teacher ") + facts[role].name);
  name.id = role + "-name";
  panel.replaceChildren(name, make("p", describe(role), "soft"));
  if (answer) {
    const time = `${answer.milliseconds.toFixed(2)} ms in the model, ${roundTrip.toFixed(0)} ms there and back`;
    panel.append(...VIEWS[facts.view].show(answer, given));
    if (answer.cut) panel.append(make("p", "The text is longer than the model takes: its end was not read.", "soft"));
    panel.append(make("p", time, "time"));
  } else {
    panel.append(make("p", given === undefined ? `Waiting for a ${facts.takes === "text" ? "text" : "picture"}.` : "…", "time"));
  }
  panel.hidden = false;
}

function fail(text) {
  at("error").textContent = text;
  at("error").hidden = !text;
}

async function ask(role, request) {
  const start = performance.now();
  const response = await fetch(PATHS[role], {method: "POST", ...request});
  const content = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(content.detail || `The server answered ${response.status}.`);
  return [content, performance.now() - start];
}

async function answer(request, given) {
  const mine = ++newest, roles = ["student", "teacher"].filter(role => facts[role]), answers = {};
  fail("");
  at("verdict").textContent = "";
  for (const role of roles) show(role, null, 0, given);
  for (const role of roles) {  // one after the other: each is timed alone
    try {
      const [found, roundTrip] = await ask(role, request);
      if (mine !== newest) return;
      answers[role] = found;
      show(role, found, roundTrip, given);
    } catch (error) {
      if (mine !== newest) return;
      fail(error instanceof TypeError ? "The server cannot be reached." : error.message);
      for (const each of roles) if (!answers[each]) show(each);
      return;
    }
  }
  if (answers.teacher) {
    const [words, alike] = VIEWS[facts.view].compare(answers.student, answers.teacher);
    at("verdict").className = alike === null ? "" : alike ? "good" : "differ";
    at("verdict").textContent = words;
  }
}

function classify(file) {
  const form = new FormData();
  form.append("image", file);
  at("preview").src = URL.createObjectURL(file);
  at("preview").hidden = false;
  at("hint").textContent = file.name || "A pasted picture";
  return answer({body: form}, "");
}

async function read() {
  const content = {text: at("text").value};
  if (facts.pair) content.pair = at("pair").value;
  at("go").disabled = true;
  await answer({body: JSON.stringify(content), headers: {"content-type": "application/json"}}, content.text);
  count();
}

function count() {
  const fields = ["text", "pair"].filter(id => !at(id).hidden), lengths = fields.map(id => [...at(id).value].length);
  const most = facts.max_characters.toLocaleString("en"), longest = Math.max(...lengths);
  at("count").textContent = `${longest.toLocaleString("en")} of ${most} characters`;
  const empty = fields.some(id => !at(id).value.trim()), unmasked = !at("mask").hidden && !at("text").value.includes(facts.mask);
  at("go").disabled = empty || longest > facts.max_characters || unmasked;
}

function takeTexts() {
  at("ask").hidden = false;
  at("go").textContent = facts.verb;
  at("pair").hidden = at("pair-label").hidden = !facts.pair;
  at("text-label").textContent = facts.pair ? "First text" : facts.ask.replace("{mask}", facts.mask);
  if (facts.mask) {
    at("mask").textContent = `Insert ${facts.mask}`;
    at("mask").hidden = false;
  }
  at("mask").addEventListener("click", () => {
    const field = at("text");
    field.setRangeText(facts.mask, field.selectionStart, field.selectionEnd, "end");
    field.focus();
    count();
  });
  at("ask").addEventListener("input", count);
  at("ask").addEventListener("submit", event => { event.preventDefault(); read(); });
  at("ask").addEventListener("keydown", event => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !at("go").disabled) read();
  });
  at("text").focus();
  count();
}

function takePictures() {
  at("drop").hidden = false;
  at("limit").textContent = `At most ${facts.max_mb} MB; it goes to this server only.`;
  at("file").addEventListener("change", event => event.target.files[0] && classify(event.target.files[0]));
  at("preview").addEventListener("error", () => { at("preview").hidden = true; });
  for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
    document.addEventListener(kind, event => {
      event.preventDefault();
      at("drop").classList.toggle("over", kind === "dragenter" || kind === "dragover");
      if (kind === "drop" && event.dataTransfer.files[0]) classify(event.dataTransfer.files[0]);
    });
  }
  document.addEventListener("paste", event => {
    const file = [...event.clipboardData.files][0];
    if (file) classify(file);
  });
}

fetch("info").then(response => response.json()).then(info => {
  facts = info.model;
  at("title").textContent = facts.teacher ? `${facts.student.name} beside ${facts.teacher.name}` : facts.student.name;
  const names = facts.classes.slice(0, 12).join(", ") + (facts.classes.length > 12 ? ", …" : "");
  at("about").textContent = facts.classes.length ? `${facts.data}: ${facts.classes.length} classes (${names})` : facts.data;
  facts.takes === "text" ? takeTexts() : takePictures();
  document.title = `${facts.student.name} on ${facts.data}`;
  for (const role of ["student", "teacher"]) if (facts[role]) show(role, null);
}).catch(() => fail("The server cannot be reached."));
