"""Run blocks of a parsed kernel, all their threads at once, and check what they do.

Threads that have diverged take turns: those at the lowest instruction go on until they meet others.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from tests.ptx.arithmetic import Array
from tests.ptx.instructions import Fault, dtype, from_bits, to_bits, width
from tests.ptx.memory import GlobalMemory, SharedMemory
from tests.ptx.parser import Address, Instruction, Kernel, Operand

WARP = 32
MOST_STEPS = 1_000_000

Lanes = slice | Array
"""Threads of the machine that execute an instruction: all, or their indices."""


@dataclass
class Launch:
    """A launch of a kernel, and the work that it has done.

    Attributes:
        kernel: what runs.
        arguments: bits of the parameters, by name.
        memory: the tensors.
        grid: the number of blocks.
        threads: of a block.
        shared: bytes of shared memory of a block.
        issued: how often a warp executed an instruction, by opcode; whole warps, idle threads
            included.
    """

    kernel: Kernel
    arguments: dict[str, int]
    memory: GlobalMemory
    grid: int
    threads: int
    shared: int
    issued: Counter[str] = field(default_factory=Counter)


class Machine:
    """The blocks of a launch with these indices."""

    def __init__(self, launch: Launch, blocks: Array) -> None:
        self.launch, self.kernel = launch, launch.kernel
        self.size = len(blocks) * launch.threads
        self.home = np.repeat(np.arange(len(blocks)), launch.threads)
        thread = np.tile(np.arange(launch.threads, dtype=np.uint32), len(blocks))
        block = np.repeat(blocks.astype(np.uint32), launch.threads)
        self.warp = thread // WARP
        self.owner = block.astype(np.int64) * launch.threads + thread
        zero = np.zeros(self.size, np.uint32)
        self.special = {
            "%tid.x": thread, "%ctaid.x": block, "%nctaid.x": zero + np.uint32(launch.grid),
            "global_smem": zero,
        }  # fmt: skip
        self.shared = SharedMemory(len(blocks), launch.shared)
        self.registers: dict[str, Array] = {}
        self.unwritten: dict[str, Array] = {}
        self.next = np.zeros(self.size, np.int64)

    def run(self) -> None:
        """Run all threads to their end.

        Raises:
            Fault: the kernel made a mistake; the message names the instruction.
        """
        end = len(self.kernel.code)
        steps = 0
        with np.errstate(all="ignore"):
            while (at := int(self.next.min())) < end:
                active = self.next == at
                lanes: Lanes = slice(None) if active.all() else np.flatnonzero(active)
                warps = int(active.reshape(-1, WARP).any(1).sum())
                while True:
                    instruction = self.kernel.code[at]
                    self.launch.issued[instruction.opcode] += warps
                    steps += 1
                    if steps > MOST_STEPS:
                        raise Fault(f"{self.kernel.name} does not end")
                    try:
                        jumped = self._step(instruction, lanes, at)
                    except Fault as fault:
                        raise Fault(f"{self.kernel.name}: {instruction}: {fault}") from None
                    at += 1
                    if jumped:
                        break
                    if at == end or at in self.kernel.joins:
                        self.next[lanes] = at
                        break

    def _step(self, instruction: Instruction, lanes: Lanes, at: int) -> bool:
        """Execute an instruction; return True if it has set where its threads go on."""
        name = instruction.opcode.partition(".")[0]
        chosen = lanes
        if instruction.guard:
            guard = self.read(instruction.guard, "pred", lanes) != instruction.unless
            chosen = self._ids(lanes)[guard]
        if name in ("bra", "ret"):
            self.next[lanes] = at + 1
            self.next[chosen] = instruction.target if name == "bra" else len(self.kernel.code)
            return True
        if name == "bar":
            self._barrier(chosen)
        elif isinstance(chosen, slice) or len(chosen):
            if name in ("ld", "st"):
                self._access(instruction, chosen)
            elif name in ("shfl", "redux"):
                self._exchange(instruction, chosen)
            elif name == "mov" and any(isinstance(o, tuple) for o in instruction.operands):
                self._pack(instruction, chosen)
            else:
                self._compute(instruction, chosen)
        return False

    def read(self, operand: Operand, kind: str, lanes: Lanes, *, unwritten: bool = False) -> Array:
        """The values of a register, a constant or a special register, one a thread.

        Raises:
            Fault: the register is not written in some of these threads, unless ``unwritten``.
        """
        if isinstance(operand, int):
            bits: Array = np.array(operand & ((1 << 8 * width(kind)) - 1), np.uint64)
            return from_bits(bits.astype(dtype("b" + str(8 * width(kind)))), kind)
        if not isinstance(operand, str):
            raise Fault(f"{operand} is no value")
        if operand.startswith("!"):
            return ~self.read(operand[1:], kind, lanes, unwritten=unwritten)
        if operand in self.special:
            bits = self.special[operand][lanes]
        elif operand not in self.registers or (
            not unwritten and self._unwritten_in(lanes, operand).any()
        ):
            raise Fault(f"{operand} is read before it is written")
        else:
            bits = self.registers[operand][lanes]
        if kind != "pred" and bits.dtype.itemsize != width(kind):
            bits = bits.astype(f"u{width(kind)}")
        return from_bits(bits, kind)

    def _unwritten_in(self, lanes: Lanes, *operands: Operand) -> Array:
        """True in the threads in which one of the operands has no value."""
        result = np.zeros(1, bool)
        for operand in operands:
            name = str(operand).removeprefix("!")
            if name in self.unwritten:
                result = result | self.unwritten[name][lanes]
        return result

    def write(
        self,
        register: Operand,
        values: Array,
        kind: str,
        lanes: Lanes,
        unwritten: Array | bool = False,
    ) -> None:
        """Write one value a thread; ``unwritten``: it comes of a register that had none."""
        if register == "_":
            return
        if not isinstance(register, str) or not (declared := self.kernel.type_of(register)):
            raise Fault(f"{register} is no register")
        bits = to_bits(values, kind).astype(
            dtype("pred" if declared == "pred" else f"b{declared[1:]}")
        )
        if register not in self.registers:
            self.registers[register] = np.zeros(self.size, bits.dtype)
            self.unwritten[register] = np.ones(self.size, bool)
        self.registers[register][lanes] = bits
        if register in self.unwritten or np.any(unwritten):
            self.unwritten.setdefault(register, np.zeros(self.size, bool))[lanes] = unwritten
            if not self.unwritten[register].any():
                del self.unwritten[register]

    def _ids(self, lanes: Lanes) -> Array:
        return np.arange(self.size) if isinstance(lanes, slice) else lanes

    def _compute(self, instruction: Instruction, lanes: Lanes) -> None:
        operation, (to, *sources) = instruction.operation, instruction.operands
        assert operation.compute, instruction
        values = [
            self.read(source, kind, lanes, unwritten=True)
            for source, kind in zip(sources, operation.sources, strict=True)
        ]
        result, unwritten = operation.compute(*values), self._unwritten_in(lanes, *sources)
        if isinstance(to, tuple):  # a comparison of pairs, with a predicate for each half
            for half, register in enumerate(to):
                self.write(register, result[..., half], operation.result, lanes, unwritten)
        else:
            self.write(to, result, operation.result, lanes, unwritten)

    def _pack(self, instruction: Instruction, lanes: Lanes) -> None:
        """``mov`` of one register to several or back, the lowest bits first."""
        bits = 8 * width(instruction.operation.result)
        to, source = (o if isinstance(o, tuple) else (o,) for o in instruction.operands)
        data = self._bytes_of(source, f"b{bits // len(source)}", lanes, unwritten=True)
        unwritten = self._unwritten_in(lanes, *source)
        self._to_registers(to, data, f"b{bits // len(to)}", lanes, unwritten)

    def _bytes_of(
        self, registers: tuple[Operand, ...], kind: str, lanes: Lanes, unwritten: bool = False
    ) -> Array:
        """The bytes of several registers side by side, a row a thread."""
        shape = self.home[lanes].shape
        columns = [self.read(r, kind, lanes, unwritten=unwritten) for r in registers]
        columns = [np.broadcast_to(column, shape) for column in columns]
        return np.stack(columns, -1).view(np.uint8)

    def _to_registers(
        self,
        registers: tuple[Operand, ...],
        data: Array,
        kind: str,
        lanes: Lanes,
        unwritten: Array | bool = False,
    ) -> None:
        for register, column in zip(registers, data.view(dtype(kind)).T, strict=True):
            self.write(register, column, kind, lanes, unwritten)

    def _barrier(self, lanes: Lanes) -> None:
        """All threads of a block must be here; those of other blocks need not."""
        here = np.bincount(self.home[lanes], minlength=self.size // self.launch.threads)
        if np.any((here != 0) & (here != self.launch.threads)):
            raise Fault("some threads of the block do not reach the barrier")
        self.shared.barrier(np.flatnonzero(here))

    def _exchange(self, instruction: Instruction, lanes: Lanes) -> None:
        """``shfl.sync`` and ``redux.sync`` of whole warps."""
        (to, source, *rest), parts = instruction.operands, instruction.opcode.split(".")
        ids = self._ids(lanes)
        if np.any(np.bincount(ids // WARP, minlength=self.size // WARP) % WARP):
            raise Fault("some threads of the warp do not take part")
        if parts[0] == "redux":
            values = self.read(source, parts[-1], lanes).reshape(-1, WARP)
            reduced = values.max(1) if parts[2] == "max" else values.min(1)
            return self.write(to, np.repeat(reduced, WARP), parts[-1], lanes)
        lane = np.arange(WARP)
        by = np.broadcast_to(self.read(rest[0], "u32", lanes).astype(np.int64), ids.shape)
        by = by.reshape(-1, WARP)
        other = {"bfly": lane ^ by, "idx": by, "up": lane - by, "down": lane + by}[parts[2]]
        other = np.where((other < 0) | (other >= WARP), lane, other)

        def exchanged(values: Array) -> Array:
            return np.take_along_axis(values.reshape(-1, WARP), other, 1).reshape(-1)

        unwritten = np.broadcast_to(self._unwritten_in(lanes, source), ids.shape)
        values = self.read(source, parts[-1], lanes, unwritten=True)
        self.write(to, exchanged(values), parts[-1], lanes, exchanged(unwritten))
        return None

    def _access(self, instruction: Instruction, lanes: Lanes) -> None:
        """``ld`` and ``st``."""
        name, space, *_, kind = instruction.opcode.replace("::cta", "").split(".")
        first, second = instruction.operands
        address, values = (second, first) if name == "ld" else (first, second)
        assert isinstance(address, Address)
        if space == "param":
            bits = self.launch.arguments[address.base] & ((1 << 8 * width(kind)) - 1)
            value = from_bits(np.array(bits, f"u{width(kind)}"), kind)
            if kind.startswith("s"):  # a register may be wider
                value, kind = value.astype(np.int64), "s64"
            return self.write(values, value, kind, lanes)
        registers = values if isinstance(values, tuple) else (values,)
        size, kind = width(kind) * len(registers), f"b{kind[1:]}"
        pointer = "u64" if space == "global" else "u32"
        places = self.read(address.base, pointer, lanes).astype(np.int64) + address.offset
        if np.any(wrong := places % size != 0):
            raise Fault(f"address {places[wrong][0]:#x} is not aligned to {size} bytes")
        data = self._bytes_of(registers, kind, lanes) if name == "st" else None
        if space == "global":
            data = self.launch.memory.access(places, size, self.owner[lanes], data)
        else:
            data = self.shared.access(places, size, self.home[lanes], self.warp[lanes], data)
        if name == "ld":
            self._to_registers(registers, data, kind, lanes)
        return None
