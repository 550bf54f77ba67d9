"""The likeliest token at each step."""

from collections.abc import Sequence

from torch import Tensor

from finetune.generation.automaton import Automaton
from finetune.generation.limits import Limits
from finetune.generation.search import Choice, Spoken


class Greedy:
    """Greedy answers to prompts that come and go.

    Args:
        steps: most tokens of an answer, including EOS.
        end: id of EOS.
        limits: of the answers; None: every token may follow.
    """

    copies = 1

    def __init__(self, steps: int, end: int, limits: Limits | None = None) -> None:
        self._steps, self._end, self._limits = steps, end, limits
        self._answers: list[Spoken] = []

    def __len__(self) -> int:
        return len(self._answers)

    def join(self, count: int, automata: Sequence[Automaton] | None = None) -> None:
        """Add prompts after those that are there."""
        self._answers += [Spoken([], []) for _ in range(count)]
        if self._limits is not None and automata is not None:
            self._limits.join(automata)

    def choose(self, logits: Tensor) -> Choice:
        """Choose the next token of each answer; see `Search`.

        Its probability is that among all tokens, also where only some of them may follow: a constrained
        answer is no surer than the model is.
        """
        scores = logits.float()
        probabilities = scores.softmax(-1)
        if self._limits is not None:
            scores = self._limits.mask(scores)
        chosen = scores.argmax(-1)
        sure = probabilities.gather(1, chosen[:, None])[:, 0].tolist()
        tokens = chosen.tolist()
        ended = []
        for number, (answer, token, probability) in enumerate(
            zip(self._answers, tokens, sure, strict=True)
        ):
            answer.tokens.append(token)
            answer.probabilities.append(probability)
            if token == self._end or len(answer.tokens) == self._steps:
                ended.append(number)
        if self._limits is not None:
            self._limits.advance(tokens)
        return Choice(chosen, None, ended)

    def take(self, number: int) -> Spoken:
        """Return the answer to a prompt that has ended."""
        return self._answers[number]

    def keep(self, numbers: Sequence[int]) -> None:
        """Keep these prompts, and drop the others."""
        self._answers = [self._answers[number] for number in numbers]
        if self._limits is not None:
            self._limits.keep(numbers)
