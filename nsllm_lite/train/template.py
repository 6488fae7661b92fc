"""Conversations -> pieces of text, each a prompt or an answer -> tokens.

A text is split where an answer begins and after the token that ends it, and each piece is tokenised by itself, so that
a prompt has the same tokens with and without its answer.

A chat template may write a turn otherwise when others follow it: Qwen3's removes the reasoning, or the empty block in
its place. Each answer is trained as the last turn, which it is when the model writes it; the answers that the longest
text has in the same form share it, each other is an example of its own. Without reasoning an answer follows the prompt
that evaluation gives (enable_thinking=False), with reasoning the template's usual one.
"""

import json
from bisect import bisect_left, bisect_right
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np

from nsllm_lite.errors import UserError
from nsllm_lite.formats.tokenizer import text_tokenizer
from nsllm_lite.safety import render_chat
from nsllm_lite.tasks.items import plain_prompt
from nsllm_lite.train.conversations import Conversation, LeftOutError, texts_of

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

Pieces = list[tuple[str, bool]]  # (text, whether it is an answer) in order

EARLIER_REASONING = "reasoning of earlier turns, which the chat template removes"
OWN_REASONING = "reasoning of answers, which the chat template does not write"
SYSTEM = "system texts, which the chat template does not write"
TOOLS = "tools, which the chat template does not write"


class Template:
    """Turns a conversation into the texts of its examples, and these into tokens, after those of `begin` (which a chat
    template writes itself). Raises UserError where the tokenizer has no token `end_of_text`, or no chat template where
    `kind` is chat."""

    def __init__(
        self,
        kind: str,
        end_of_text: str,
        tokenizer: "Tokenizer",
        chat: "PreTrainedTokenizerBase",
        begin: tuple[int, ...] = (),
    ):
        self.kind, self.end_of_text, self._chat, self._begin = kind, end_of_text, chat, list(begin)
        end_id = tokenizer.token_to_id(end_of_text)
        special = [token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special]
        if end_id is None:
            found = f"The tokenizer has no token end_of_text={end_of_text!r}."
            todo = f"Set end_of_text to one of its special tokens: {', '.join(special[:8]) or 'none'}."
            raise UserError("template-end-token-missing", found, "Needed is the token that ends an answer.", todo)
        if kind == "chat" and not chat.chat_template:
            found = "template: chat, but this model's tokenizer has no chat template."
            todo = "Set template: plain, or name a model whose tokenizer_config.json or chat_template.jinja has one."
            raise UserError("template-chat-missing", found, "Base models often have none.", todo)
        self.end_id: int = end_id
        self._special = {*special, end_of_text}
        self._tokenizer = tokenizer if kind == "chat" else text_tokenizer(tokenizer)
        self._joins = _joins_pieces(tokenizer)

    def examples(self, talk: Conversation, where: str) -> list[Pieces]:
        """The pieces of each of its examples, the shortest first; what the template does not write is noted in its
        `unused`. Raises LeftOutError where that is a part of a question or an answer, or the template refuses."""
        return self._chat_examples(talk, where) if self.kind == "chat" else [_plain_pieces(talk)]

    def encode(self, pieces: Pieces) -> tuple[np.ndarray, np.ndarray]:
        """(input_ids, is_answer). In the plain template a special token's name in a text stays text."""
        plain = self.kind == "plain"
        ids = self._begin.copy()
        is_answer = [False] * len(ids)
        texts = [text for text, _ in pieces]
        if not all(text.isascii() or text == text.encode(errors="ignore").decode() for text in texts):
            raise LeftOutError("half a character (a lone surrogate)")
        for piece, (_, answers) in zip(self._encode(texts), pieces, strict=True):
            piece += [self.end_id] if plain and answers else []
            ids += piece
            is_answer += [answers] * len(piece)
        return np.array(ids, np.int64), np.array(is_answer, bool)

    def _encode(self, texts: list[str]) -> list[list[int]]:
        """The ids of each piece; with a tokenizer that begins every text with a blank, those that it has in the whole,
        where no token stands in two pieces and those before an answer are the prompt's own."""
        alone = [self._tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
        if not self._joins or len(texts) == 1:
            return alone
        whole = self._tokenizer.encode("".join(texts), add_special_tokens=False)
        bounds = list(accumulate(map(len, texts), initial=0))
        starts = [bisect_right(bounds, start) - 1 for start, _ in whole.offsets]
        ends = [bisect_left(bounds, end) - 1 for _, end in whole.offsets]
        pieces = [[number for number, at in zip(whole.ids, starts, strict=True) if at == n] for n in range(len(texts))]
        return pieces if starts == ends and pieces[0] == alone[0] else alone

    def _chat_examples(self, talk: Conversation, where: str) -> list[Pieces]:
        if any(token in text for text in texts_of([talk.messages, talk.tools]) for token in self._special):
            raise LeftOutError("a special token of the template in its text")
        waiting = {place: self._answer(talk, place, where) for place in talk.trained}
        _note_unwritten(talk, "".join(waiting[talk.trained[-1]]))
        if talk.tools and self._render(talk, len(talk.messages), where) == self._render(
            Conversation(talk.messages, talk.trained), len(talk.messages), where
        ):
            talk.unused.add(TOOLS)
        examples = []
        while waiting:
            prompt, answer = waiting.pop(last := max(waiting))
            pieces, end = [], 0
            for place, (opening, closing) in sorted(waiting.items()):
                if len(opening) >= end and prompt.startswith(opening + closing):
                    pieces += [(prompt[end : len(opening)], False), (closing, True)]
                    end = len(opening + closing)
                    del waiting[place]
            examples.append([*pieces, (prompt[end:], False), (answer, True)])
            assert last not in waiting
        return examples[::-1]

    def _answer(self, talk: Conversation, place: int, where: str) -> tuple[str, str]:
        """The prompt of the answer at `place`, and the answer with its end token, as the last turn."""
        asked = self._render(talk, place, where, add_generation_prompt=True, enable_thinking=False)
        usual = self._render(talk, place, where, add_generation_prompt=True)
        ways = [(asked, {"enable_thinking": False}), (usual, {})]
        reasoning, _ = _parted(message := talk.messages[place])
        thinks = bool(reasoning) and reasoning in self._render(talk, place + 1, where)[len(usual) :]
        if reasoning and not thinks:
            talk.unused.add(OWN_REASONING)
        for opening, mode in ways[::-1] if thinks else ways:
            said = self._render(talk, place + 1, where, **mode)
            if said.startswith(opening):
                break
        else:
            found = f"{where}: the chat template begins a conversation differently when an answer follows."
            needed = "Its answers cannot be told from its prompts."
            error = UserError("template-answers-not-separable", found, needed, "Set template: plain.")
            raise LeftOutError("an answer that the chat template does not write after its prompt", error)
        end = said.find(self.end_of_text, len(opening))
        if end < 0:
            found = f"{where}: the chat template ends no answer with end_of_text={self.end_of_text!r}."
            todo = "Set end_of_text to the token that it ends them with."
            written = f"It writes {said[len(opening) :][-80:]!r}."
            error = UserError("template-end-token-unused", found, written, todo)
            raise LeftOutError("an answer that the chat template does not end", error)
        answer = said[len(opening) : end + len(self.end_of_text)]
        if not _writes(answer, message):
            raise LeftOutError("an answer that the chat template changes")
        return opening if thinks else asked, answer

    def _render(self, talk: Conversation, count: int, where: str, **options: Any) -> str:
        """The first `count` messages."""
        try:
            return render_chat(self._chat, talk.messages[:count], tools=talk.tools, **options)
        except ValueError as refusal:
            found = f"{where}: the chat template refuses it ({refusal})."
            todo = "Change the record (a system text can begin the first question), or set template: plain."
            refused = UserError(
                "template-refuses-record", found, "Many templates know no system message or tools.", todo
            )
            raise LeftOutError("the chat template refuses it", refused) from None


def _joins_pieces(tokenizer: "Tokenizer") -> bool:
    """Whether the tokenizer begins every text with a blank, as SentencePiece does."""
    parts = f"{tokenizer.normalizer} {tokenizer.pre_tokenizer}"
    return "Prepend(" in parts or "Metaspace(" in parts


def _plain_pieces(talk: Conversation) -> Pieces:
    if talk.tools or any(m["role"] == "tool" or "tool_calls" in m for m in talk.messages):
        raise LeftOutError("tools, which the plain template has not")
    *system, question, answer = talk.messages
    if len(system) > 1 or any(message["role"] != "system" for message in system):
        raise LeftOutError("several turns, which the plain template has not")
    if "reasoning_content" in answer:
        raise LeftOutError("reasoning apart from the answer, which the plain template has not")
    prompt = plain_prompt(system[0]["content"] if system else "", question["content"])
    return [(prompt, False), (answer["content"].strip(), True)]


def _parted(message: dict[str, Any]) -> tuple[str, str]:
    """Reasoning and answer of a message, each stripped; the reasoning is empty where there is none."""
    content, reasoning = message["content"], message.get("reasoning_content", "")
    if message["role"] == "assistant" and not reasoning and "</think>" in content:
        before, _, content = content.rpartition("</think>")
        reasoning = before.rpartition("<think>")[2]
    return reasoning.strip(), content.strip()


def _writes(text: str, message: dict[str, Any]) -> bool:
    """Whether a text that the template wrote has the message's content (without its reasoning) and tool calls."""
    functions = [call["function"] for call in message.get("tool_calls", ())]
    names = [name for function in functions for name in (function["name"], *function["arguments"])]
    return _parted(message)[1] in text and all(name in text for name in names)


def _note_unwritten(talk: Conversation, text: str) -> None:
    """Notes system text and earlier reasoning that `text` lacks. Raises LeftOutError where it lacks another turn."""
    end = 0
    for message in talk.messages:
        reasoning, content = _parted(message)
        if message["role"] == "system":
            talk.unused |= {SYSTEM} if content not in text else set()
            continue
        if reasoning and reasoning not in text and message is not talk.messages[-1]:
            talk.unused.add(EARLIER_REASONING)
        forms = [content]
        if message["role"] == "tool":  # some templates write its JSON
            forms += [json.dumps(content, ensure_ascii=is_ascii)[1:-1] for is_ascii in (False, True)]
        place, form = max((text.find(form, end), form) for form in forms)
        if place < 0 or (not _writes(text, message) and message["role"] == "assistant"):
            raise LeftOutError("a turn that the chat template does not write")
        end = place + len(form)
