"""Parse the PTX of one kernel into instructions."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from tests.ptx.instructions import Operation, decode


@dataclass(frozen=True)
class Address:
    """``[base + offset]``; the base is a register, a parameter or ``global_smem``, which is 0."""

    base: str
    offset: int


Operand = str | int | Address | tuple["Operand", ...]
"""A register, the bits of a constant, an address, or several of them in braces or with ``|``."""


@dataclass(frozen=True)
class Instruction:
    """One instruction.

    Attributes:
        opcode: with its modifiers, such as ``setp.lt.s32``.
        operands: the destination first.
        guard: the predicate that decides which threads execute it, or "".
        unless: whether those with a false predicate do.
        target: the index of the instruction to which a branch jumps.
    """

    opcode: str
    operands: tuple[Operand, ...]
    guard: str = ""
    unless: bool = False
    target: int = -1

    def __str__(self) -> str:
        guard = f"@{'!' * self.unless}{self.guard} " if self.guard else ""
        return f"{guard}{self.opcode} {', '.join(map(str, self.operands))}"

    @cached_property
    def operation(self) -> Operation:
        """The arithmetic."""
        return decode(self.opcode)


@dataclass(frozen=True)
class Kernel:
    """A parsed kernel.

    Attributes:
        name: of the entry.
        parameters: their names, in order.
        registers: the type of each register, or of all that begin with a name (``%r<9>``).
        code: the instructions; falling off the end ends a thread.
        joins: indices that a branch may jump to.
    """

    name: str
    parameters: tuple[str, ...]
    registers: dict[str, str]
    code: tuple[Instruction, ...]
    joins: frozenset[int]

    def type_of(self, register: str) -> str:
        """Return the declared type; "" of what is no register."""
        whole = self.registers.get(register, "")
        return whole or self.registers.get(re.sub(r"\d+$", "<>", register), "")


def parse(ptx: str) -> Kernel:
    """Parse the first kernel of a PTX module.

    Raises:
        NotImplementedError: an instruction is unknown.
    """
    text = re.sub(r"//[^\n]*|\"[^\"\n]*\"", "", ptx)
    header = re.search(r"\.entry\s+(\w+)\s*\(([^)]*)\)[^{]*\{", text)
    if not header:
        raise ValueError("no kernel in this PTX")
    parameters = re.findall(r"(\w+)\s*(?:,|$)", header[2].strip())
    registers: dict[str, str] = {}
    labels: dict[str, int] = {}
    found: list[str] = []
    scopes: list[dict[str, str]] = [{}]
    for line in _statements(text[header.end() :]):
        if line == "{":
            scopes.append({})
        elif line == "}":
            scopes.pop()
            if not scopes:
                break
        elif line.endswith(":"):
            labels[line[:-1]] = len(found)
        elif line.startswith(".reg"):
            _, kind, names = line.split(None, 2)
            for name in re.split(r"\s*,\s*", names):
                key = re.sub(r"<\d+>", "<>", name)
                if len(scopes) > 1:  # local to an inline assembly, which may occur again
                    scopes[-1][key] = key = f"{key}@{len(found)}"
                registers[key] = kind[1:]
        elif not line.startswith("."):
            for scope in scopes:
                for name, unique in scope.items():
                    line = re.sub(rf"(?<![\w%.]){re.escape(name)}(?![\w.])", unique, line)
            found.append(line)
    code = tuple(_instruction(line, labels) for line in found)
    return Kernel(header[1], tuple(parameters), registers, code, frozenset(labels.values()))


def _statements(body: str) -> Iterator[str]:
    """Instructions, declarations, labels (with a colon) and the braces of scopes."""
    body = re.sub(r"^\s*\.(?:loc|pragma)\b[^\n]*", "", body, flags=re.MULTILINE)
    pattern = r"\$?[\w$]+:(?!:)|(?:[^;{}:]|::|\{[^;{}]*\})+;|[{}]"
    return (match[0].rstrip(";").strip() for match in re.finditer(pattern, body))


def _instruction(line: str, labels: dict[str, int]) -> Instruction:
    pattern = r"(?:@(!?)(\S+)\s+)?(\S+)\s*(.*)"
    negation, guard, opcode, rest = re.fullmatch(pattern, line, re.DOTALL).groups("")  # type: ignore[union-attr]
    if opcode in ("bra", "bra.uni"):
        return Instruction("bra", (), guard, bool(negation), labels[rest])
    operands = tuple(_operand(part) for part in _split(rest))
    instruction = Instruction(opcode, operands, guard, bool(negation))
    assert instruction.operation
    return instruction


def _split(text: str) -> list[str]:
    """The parts between commas outside of braces and brackets."""
    return [part.strip() for part in re.findall(r"(?:[^,{\[]|\{[^}]*\}|\[[^\]]*\])+", text.strip())]


def _operand(text: str) -> Operand:
    if text.startswith("{"):
        return tuple(_operand(part) for part in _split(text.strip("{} ")))
    if "|" in text:
        return tuple(_operand(part.strip()) for part in text.split("|"))
    if text.startswith("["):
        base, _, offset = text.strip("[] ").partition("+")
        return Address(base.strip(), int(offset.strip() or "0", 0))
    if text[:2] in ("0f", "0d"):
        return int(text[2:], 16)
    if re.fullmatch(r"-?(?:0x[\da-fA-F]+|\d+)U?", text):
        return int(text.rstrip("U"), 0)
    return text
