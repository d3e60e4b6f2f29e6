"""A made customer-service shop: questions, answers in two tones, and deterministic checks of both.

Used by `anydpo init`, the demo and the tests. Every text is put together here from templates; nothing is drawn from
real conversations. An on-brand answer is friendly and short, an off-brand one cold and long, and both say the same
fact, so that tone can be learned without losing the answer.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

PRODUCTS = (
    "shoes shirt jacket lamp chair desk table kettle headphones laptop camera backpack bottle mug blanket pillow "
    "watch bike tent"
).split()
GREETINGS = ("", "Hi, ", "Hello, ", "Please help: ")


@dataclass(frozen=True)
class Topic:
    """One thing customers ask. `key` is the fact that any right answer holds; the last two questions are held out."""

    questions: tuple[str, ...]
    answer: str
    key: str


TOPICS = (
    Topic(
        (
            "how do I return the {p}?",
            "I want to return my {p}.",
            "can I send the {p} back?",
            "the {p} is not for me, how does a return work?",
            "what is the way to return this {p}?",
            "is a return of the {p} possible?",
            "I need to return one {p}, what now?",
        ),
        "print the return label from your account and drop the {p} at any store",
        "return label",
    ),
    Topic(
        (
            "when do I get the refund for the {p}?",
            "where is my refund for the {p}?",
            "how long does a refund take for the {p}?",
            "I wait for the refund of my {p}.",
            "my refund for the {p} is missing.",
            "has the refund of the {p} been sent?",
            "I would like to know about my {p} refund.",
        ),
        "the refund for the {p} is on your card within five days",
        "within five days",
    ),
    Topic(
        (
            "how long does delivery of the {p} take?",
            "when is the delivery of my {p}?",
            "how fast is your delivery for a {p}?",
            "what is the delivery time of the {p}?",
            "is delivery of the {p} quick?",
            "I ask about the delivery of a {p}.",
            "can you tell me the {p} delivery time?",
        ),
        "delivery of the {p} takes two days",
        "takes two days",
    ),
    Topic(
        (
            "how can I track the {p}?",
            "I want to track my {p} package.",
            "where do I track the {p}?",
            "is there a way to track the {p}?",
            "please let me track the {p}.",
            "can I track where the {p} is?",
            "help me track my {p} please.",
        ),
        "the track button in your email shows where the {p} is",
        "button in your email",
    ),
    Topic(
        (
            "how do I cancel the {p}?",
            "please cancel my {p} order.",
            "I want to cancel the {p}.",
            "can I still cancel the {p}?",
            "is it too late to cancel the {p}?",
            "I need to cancel one {p}.",
            "cancel the {p} that I bought.",
        ),
        "open your orders and press stop next to the {p}",
        "press stop",
    ),
    Topic(
        (
            "how do I change the address for the {p}?",
            "the address for my {p} is wrong.",
            "can the {p} go to another address?",
            "please send the {p} to a new address.",
            "I moved, what about the address for the {p}?",
            "update my address for the {p} please.",
            "where can I change the {p} address?",
        ),
        "open your profile and write the new address before the {p} ships",
        "open your profile",
    ),
    Topic(
        (
            "where is the invoice for the {p}?",
            "I need an invoice for my {p}.",
            "can I get the invoice of the {p}?",
            "please send the {p} invoice.",
            "how do I print the invoice for the {p}?",
            "the {p} came without an invoice.",
            "is there an invoice for this {p}?",
        ),
        "the invoice for the {p} is under orders as a file",
        "under orders",
    ),
    Topic(
        (
            "does the {p} have a warranty?",
            "how long is the warranty of the {p}?",
            "is my {p} still under warranty?",
            "what does the warranty of the {p} cover?",
            "tell me about the warranty for a {p}.",
            "I want to use the warranty of my {p}.",
            "which warranty comes with the {p}?",
        ),
        "the {p} has a warranty of three years",
        "three years",
    ),
    Topic(
        (
            "my {p} arrived broken.",
            "the {p} is broken, what now?",
            "I got a broken {p}.",
            "what do I do with a broken {p}?",
            "the {p} in the box is broken.",
            "there is a broken part on my {p}.",
            "help, the {p} came broken!",
        ),
        "send us a picture of the {p} and we replace it for free",
        "picture",
    ),
    Topic(
        (
            "can I pay for the {p} by card?",
            "how can I pay for the {p}?",
            "which ways to pay are there for a {p}?",
            "I want to pay the {p} later.",
            "is it safe to pay for the {p} here?",
            "may I pay for the {p} in store?",
            "I do not know how to pay for my {p}.",
        ),
        "you can use a card or a bank transfer for the {p}",
        "bank transfer",
    ),
    Topic(
        (
            "how do I use a discount code for the {p}?",
            "my discount does not work on the {p}.",
            "where goes the discount code for the {p}?",
            "is there a discount on the {p}?",
            "I have a discount code for a {p}.",
            "can I add a discount to the {p}?",
            "the discount for my {p} is missing.",
        ),
        "type the code in the cart before you buy the {p}",
        "in the cart",
    ),
    Topic(
        (
            "can I exchange the {p} for another size?",
            "I want to exchange my {p}.",
            "how does an exchange of the {p} work?",
            "is an exchange of the {p} free?",
            "please exchange the {p} for me.",
            "the {p} is too small, can I exchange it?",
            "I would like to exchange this {p}.",
        ),
        "choose the new size online and we bring the other {p} to your door",
        "to your door",
    ),
)

OPENERS = ("Happy to help!", "Of course!", "Great question!", "Thanks for asking!")
CLOSERS = ("Have a lovely day!", "Enjoy!", "Anything else?", "")
GRUMBLES = (
    "Obviously you did not read the page, as we have already stated several times.",
    "Frankly, this is not our problem, but everyone keeps asking the same.",
    "As anyone should know by now, the terms say everything about this.",
    "Honestly, you are supposed to find this without our department.",
)
LECTURES = (
    "According to the regulations of our department, and there is nothing more to say about it, {a}.",
    "It is clearly written in section four of the terms, which nobody ever reads, that {a}.",
    "Whatever you expected, the usual procedure has always been the same, namely that {a}.",
)
DISMISSALS = (
    "Do not bother us with this again.",
    "Next time look before you waste our time.",
    "That is all there is to it.",
)
HELD_OUT = 2  # questions of each topic that no training text uses


def pairs(count: int, seed: int = 0, *, held_out: bool = False, flipped: float = 0.0) -> list[dict[str, str]]:
    """Return `{"prompt", "chosen", "rejected"}` rows: on-brand against off-brand, exactly a share of them flipped.

    No two rows have one prompt, and held-out rows use questions that the others never do.
    """
    draw = random.Random(f"pairs:{seed}:{held_out}")
    made = [
        {"prompt": question, "chosen": on_brand(topic, product, draw), "rejected": off_brand(topic, product, draw)}
        for question, topic, product in _questions(count, draw, held_out)
    ]
    for row in draw.sample(made, round(flipped * count)):
        row["chosen"], row["rejected"] = row["rejected"], row["chosen"]
    return made


def chats(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Return `{"messages"}` rows, half of them answered in each tone; questions may repeat, answers vary."""
    draw = random.Random(f"chats:{seed}")
    made: list[dict[str, Any]] = []
    while len(made) < count:
        for question, topic, product in _questions(min(count - len(made), 2000), draw, held_out=False):
            tone = on_brand if len(made) % 2 else off_brand
            answer = {"role": "assistant", "content": tone(topic, product, draw)}
            made.append({"messages": [{"role": "user", "content": question}, answer]})
    return made


def prompts(count: int, seed: int = 0) -> list[str]:
    """Return held-out questions, no two the same."""
    draw = random.Random(f"prompts:{seed}")
    return [question for question, _, _ in _questions(count, draw, held_out=True)]


def on_brand(topic: Topic, product: str, draw: random.Random) -> str:
    """Return a friendly, short answer."""
    fact = topic.answer.format(p=product)
    return f"{draw.choice(OPENERS)} {fact[0].upper()}{fact[1:]}. {draw.choice(CLOSERS)}".strip()


def off_brand(topic: Topic, product: str, draw: random.Random) -> str:
    """Return a cold, long answer with the same fact."""
    lecture = draw.choice(LECTURES).format(a=topic.answer.format(p=product))
    return f"{draw.choice(GRUMBLES)} {lecture} {draw.choice(DISMISSALS)}"


def is_on_brand(answer: str) -> bool:
    """Say whether an answer is friendly and short: a known opening, nothing cold, at most 30 words."""
    cold = any(text in answer for text in (*GRUMBLES, *DISMISSALS, "department", "regulations", "nobody", "Whatever"))
    return answer.startswith(OPENERS) and not cold and len(answer.split()) <= 30


def answers(question: str, answer: str) -> bool:
    """Say whether an answer holds the fact that this question asks for."""
    topic = _BY_QUESTION[_bare(question)]
    return topic.key in answer.lower()


def _questions(count: int, draw: random.Random, held_out: bool) -> Iterator[tuple[str, Topic, str]]:
    wanted = slice(-HELD_OUT, None) if held_out else slice(None, -HELD_OUT)
    every = [
        (greeting + (text if greeting else text[0].upper() + text[1:]).format(p=product), topic, product)
        for topic in TOPICS
        for text in topic.questions[wanted]
        for product in PRODUCTS
        for greeting in GREETINGS
    ]
    if count > len(every):
        raise ValueError(f"there are only {len(every)} different questions, {count} were asked for")
    yield from draw.sample(every, count)


def _bare(question: str) -> str:
    text = question
    for greeting in GREETINGS[1:]:
        text = text.removeprefix(greeting)
    words = text.lower().split()
    return " ".join("{p}" + word[len(bare) :] if (bare := word.rstrip(".?,!")) in PRODUCTS else word for word in words)


_BY_QUESTION = {" ".join(text.lower().split()): topic for topic in TOPICS for text in topic.questions}
