"""What is taken from torch without its promise: it does what torch's own product does, and is not needed."""

from __future__ import annotations

import pytest
import torch

from upslope.native import onednn

DTYPES = (torch.float32, torch.float64, torch.bfloat16)


def given(dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    draw = torch.Generator().manual_seed(0)
    return tuple(torch.randn(*shape, generator=draw).to(dtype) for shape in ((24, 96), (40, 96), (40,)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("num_rows", [1, 24, 64])
def test_a_laid_out_weight_gives_the_ordinary_product(dtype, with_bias, num_rows):
    """For other numbers of rows than it was laid out for too; in bfloat16 to two of its roundings."""
    x, weight, bias = given(dtype)
    bias = bias if with_bias else None
    found = onednn.product(weight, bias, num_rows)(x)
    expected = torch.nn.functional.linear(x.double(), weight.double(), None if bias is None else bias.double())
    tolerance = {torch.float32: 1e-5, torch.float64: 1e-13, torch.bfloat16: 2**-7}[dtype]
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=10 * tolerance)


@pytest.mark.skipif(not onednn.lays_out(), reason="oneDNN has no bfloat16 here")
def test_a_weight_in_bfloat16_is_a_copy():
    x, weight, _ = given(torch.bfloat16)
    product = onednn.product(weight, None, len(x))
    before = product(x)
    weight.zero_()
    assert torch.equal(product(x), before)


@pytest.mark.parametrize("name", ["_is_mkldnn_bf16_supported", "_reorder_linear_weight", "_linear_pointwise"])
def test_without_one_of_the_names_the_ordinary_product_is_taken(name, monkeypatch):
    all_of_them = torch.ops.mkldnn

    class Fewer:
        def __getattr__(self, asked):
            if asked == name:
                raise AttributeError(asked)
            return getattr(all_of_them, asked)

    monkeypatch.setattr(torch.ops, "mkldnn", Fewer())
    assert not onednn.lays_out()
    x, weight, bias = given(torch.bfloat16)
    assert torch.equal(onednn.product(weight, bias, 24)(x), torch.nn.functional.linear(x, weight, bias))


def test_without_the_questions_no_processor_multiplies_bfloat16(monkeypatch):
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.delattr(torch.cpu, name, raising=False)
    assert onednn.cpu_gains_by_bf16() is False


@pytest.mark.parametrize(
    ("amx", "avx512", "maker", "gains"),
    [
        (True, True, "GenuineIntel", True),
        (False, True, "GenuineIntel", False),
        (False, True, "AuthenticAMD", True),
        (False, False, "AuthenticAMD", False),
        (False, False, "", False),
    ],
)
def test_bfloat16_is_taken_where_its_products_are_faster_than_float32s(amx, avx512, maker, gains, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512, raising=False)
    monkeypatch.setattr(onednn, "cpu_maker", lambda: maker)
    assert onednn.cpu_gains_by_bf16() is gains


def test_the_maker_is_read_where_the_system_tells_it(monkeypatch, tmp_path):
    told = tmp_path / "cpuinfo"
    told.write_text("processor\t: 0\nvendor_id\t: GenuineIntel\nmodel name\t: x\n")
    monkeypatch.setattr(onednn, "Path", lambda _: told)
    assert onednn.cpu_maker() == "GenuineIntel"
    told.unlink()
    monkeypatch.setattr(onednn.platform, "processor", lambda: "AMD64 Family 25, AuthenticAMD")
    assert "AuthenticAMD" in onednn.cpu_maker()
