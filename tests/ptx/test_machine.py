"""Small kernels on the emulator: what they compute, and the mistakes that it finds."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")

from tests.ptx.instructions import Fault
from tests.ptx.launch import Emulator
from tests.ptx.machine import Launch
from tests.ptx.parser import parse

START = """
    mov.u32 %r1, %tid.x;
    mov.u32 %r2, %ctaid.x;
    mad.lo.s32 %r3, %r2, 64, %r1;   // this thread of all
    ld.param.b64 %rd1, [in];
    ld.param.b64 %rd2, [out];
    mul.wide.s32 %rd3, %r3, 4;
    add.s64 %rd4, %rd1, %rd3;
    add.s64 %rd5, %rd2, %rd3;
"""


def run(
    body: str, x: torch.Tensor, y: torch.Tensor, grid: int = 2, shared: int = 0, number: int = 0
) -> Launch:
    """Run a kernel whose threads, 64 a block, have addresses of an int32 of x and of y."""
    text = f"""
    .extern .shared .align 16 .b8 global_smem[];
    .visible .entry small(.param .u64 .ptr .global .align 1 in, .param .u64 .ptr .global out,
        .param .u32 number)
    .reqntid 64
    {{
        .reg .pred %p<9>;
        .reg .b32 %r<99>;
        .reg .b64 %rd<20>;
        {START} {body}
        ret;
    }}"""
    values = {"x": x, "y": y, "number": number}
    return Emulator().run(parse(text), grid, values, 64, shared)


def tensors(size: int = 128) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.arange(size, dtype=torch.int32), torch.full((size,), -1, dtype=torch.int32)


LOAD, STORE = "ld.global.b32 { %r4 }, [ %rd4 + 0 ];", "st.global.b32 [ %rd5 + 0 ], { %r5 };"


def test_threads_that_loop_for_different_times():
    x, y = tensors()
    run(
        f"""{LOAD}
        mov.b32 %r5, 0;
        $L__more: setp.eq.s32 %p1, %r4, 0;
        @%p1 bra $L__end;
        add.s32 %r5, %r5, %r4;
        sub.s32 %r4, %r4, 1;
        bra.uni $L__more;
        $L__end: {STORE}""",
        x,
        y,
    )
    assert torch.equal(y, x * (x + 1) // 2)


@pytest.mark.parametrize(("number", "high"), [(2**31 - 1, 0), (2**31, -1), (2**32, 0)])
def test_a_parameter_of_32_bits_is_cut_off_and_extended_by_its_sign(number, high):
    x, y = tensors()
    run(
        f"ld.param.s32 %rd6, [number]; shr.s64 %rd7, %rd6, 32; cvt.u32.u64 %r5, %rd7; {STORE}",
        x,
        y,
        number=number,
    )
    assert y.unique().tolist() == [high]


def test_guards_and_scopes():
    x, y = tensors()
    run(
        f"""{LOAD}
        setp.lt.s32 %p1, %r4, 100;
        {{ .reg .b32 one; mov.b32 one, 1; @%p1 add.s32 %r5, %r4, one; }}
        {{ .reg .b32 one; mov.b32 one, 2; @!%p1 add.s32 %r5, %r4, one; }}
        {STORE}""",
        x,
        y,
    )
    assert torch.equal(y, torch.where(x < 100, x + 1, x + 2))


def test_vectors_halves_and_warps():
    x, y = tensors(256)
    launch = run(
        """
        add.s64 %rd4, %rd4, %rd3;   // two a thread
        add.s64 %rd5, %rd5, %rd3;
        ld.global.v2.b32 { %r4, %r5 }, [ %rd4 ];
        mov.b64 %rd6, {%r4, %r5};
        mov.b64 {%r6, %r7}, %rd6;
        shfl.sync.bfly.b32 %r8, %r6, 1, 31, -1;
        redux.sync.max.s32 %r9, %r7, -1;
        st.global.v2.b32 [ %rd5 + 0 ], { %r8, %r9 };""",
        x,
        y,
    )
    pairs, found = x.view(-1, 2), y.view(-1, 2)
    assert torch.equal(found[:, 0], pairs[:, 0].view(-1, 2).flip(1).flatten())
    assert torch.equal(found[:, 1], pairs[:, 1].view(-1, 32).amax(1).repeat_interleave(32))
    assert launch.memory.moved == {("load", "x"): 1024, ("store", "y"): 1024}
    assert launch.issued["shfl.sync.bfly.b32"] == 4
    assert launch.issued["ld.global.v2.b32"] == 4


SOME = "setp.lt.u32 %p1, %r1, 40; @%p1 ld.global.b32 { %r4 }, [ %rd4 + 0 ];"


def test_what_comes_of_an_unwritten_register_is_unwritten():
    """Triton 3.6 exchanges and adds all lanes of a warp, and stores what comes of written ones."""
    x, y = tensors()
    run(
        f"""{SOME}
        shfl.sync.bfly.b32 %r5, %r4, 1, 31, -1;
        max.s32 %r5, %r4, %r5;
        mov.b64 %rd6, {{%r4, %r5}};
        mov.b64 {{_, %r5}}, %rd6;
        @%p1 st.global.b32 [ %rd5 + 0 ], {{ %r5 }};""",
        x,
        y,
    )
    assert torch.equal(y, torch.where(x % 64 < 40, x | 1, -1))
    with pytest.raises(Fault, match="%r5 is read before it is written"):
        run(f"{SOME} shfl.sync.bfly.b32 %r5, %r4, 8, 31, -1; @%p1 {STORE}", x, y)


def test_warps_that_take_no_part_are_not_counted():
    launch = run(f"setp.ge.u32 %p1, %r1, 8; @%p1 bra $L__end; {LOAD} $L__end:", *tensors(), grid=1)
    assert launch.issued["setp.ge.u32"] == 2
    assert launch.issued["ld.global.b32"] == 1
    assert launch.memory.moved == {("load", "x"): 32}


SHARE = """
    shl.b32 %r6, %r1, 2;
    mov.b32 %r7, global_smem;
    add.s32 %r8, %r7, %r6;
    xor.b32 %r9, %r8, 128;          // of the other warp
    st.shared.b32 [ %r8 ], %r3;
"""


def test_shared_memory():
    x, y = tensors()
    code = f"{SHARE} bar.sync 0; ld.shared.b32 %r5, [%r9]; {STORE}"
    for body in (code, code.replace("shared.b32", "shared::cta.b32")):
        y.zero_()
        run(body, x, y, shared=256)
        assert torch.equal(y, x.view(-1, 2, 32).flip(1).flatten())


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("ld.global.b32 %r4, [%rd4+4];", "in no tensor, of 1 threads"),
        ("ld.global.b32 %r4, [%rd4+2];", "not aligned to 4 bytes"),
        ("ld.global.v2.b32 {%r4, %r5}, [%rd4];", "not aligned to 8 bytes"),
        ("mov.b32 %r5, 1; st.global.b32 [%rd2], %r5;", "two threads write one place of y"),
        (f"mov.b32 %r5, 1; {STORE} ld.global.b32 %r4, [%rd2];", "reads what another wrote"),
        (STORE, "%r5 is read before it is written"),
        (f"setp.eq.s32 %p1, %r3, 5; @!%p1 mov.b32 %r5, 1; {STORE}", "%r5 is read before"),
        (f"{SHARE} ld.shared.b32 %r5, [%r9];", "without a barrier"),
        (f"{SHARE} bar.sync 0; ld.shared.b32 %r5, [%r9]; st.shared.b32 [%r8], %r5;", "without a b"),
        (f"{SHARE} bar.sync 0; ld.shared.b32 %r5, [%r9+128];", "beyond the shared memory"),
        (f"{SHARE} st.shared.b32 [%r7], %r3;", "one place of shared memory"),
        ("mov.b32 %r7, global_smem; ld.shared.b32 %r5, [%r7];", "before it is written"),
        ("setp.eq.s32 %p1, %r1, 5; @%p1 bra $L__end; bar.sync 0; $L__end:", "reach the barrier"),
        ("setp.eq.s32 %p1, %r1, 5; @%p1 bra $L__end; redux.sync.max.s32 %r4, %r1, -1; $L__end:",
         "do not take part"),
        ("$L__more: bra $L__more;", "does not end"),
    ],
)  # fmt: skip
def test_mistakes_are_found(body, message, monkeypatch):
    monkeypatch.setattr("tests.ptx.machine.MOST_STEPS", 1000)
    with pytest.raises(Fault, match=message):
        run(body, *tensors(), shared=256)


def test_an_address_between_the_rows_of_a_tensor():
    whole, y = tensors(256)
    rows = whole.view(8, 32)[:, :16]
    with pytest.raises(Fault, match="no element of x"):
        run(LOAD, rows, y)


def test_two_halves_of_one_tensor():
    whole, _ = tensors(128)
    left, right = whole.view(8, 16).chunk(2, dim=1)
    emulated = run(LOAD, left, right)
    assert emulated.memory.moved == {("load", "x+y"): 512}
