"""Conjugate gradients: exact where they must be, and honest where the matrix is none they are for."""

import itertools
import math

import pytest
import torch

from upslope.algo.conjugate import conjugate_gradients


def symmetric(*eigenvalues, seed=0):
    """A matrix with these eigenvalues and random eigenvectors."""
    draw = torch.Generator().manual_seed(seed)
    basis, _ = torch.linalg.qr(torch.randn(len(eigenvalues), len(eigenvalues), generator=draw, dtype=torch.float64))
    return basis @ torch.diag(torch.tensor(eigenvalues, dtype=torch.float64)) @ basis.T


def vector(num, seed=1):
    return torch.randn(num, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def solve(matrix, b, iterations, **options):
    return conjugate_gradients(lambda v: matrix @ v, b, iterations=iterations, **options)


def test_two_steps_by_hand():
    """A = diag(1, 2), b = (1, 1). First: length 2/3, x = (2/3, 2/3), residual (1/3, -1/3), a third of |b|. Second:
    direction residual + (1/9) b, and x = (1, 1/2)."""
    matrix, b = torch.diag(torch.tensor([1.0, 2.0], dtype=torch.float64)), torch.ones(2, dtype=torch.float64)
    first = solve(matrix, b, 1)
    assert first.x.tolist() == pytest.approx([2 / 3, 2 / 3])
    assert first.residual == pytest.approx(1 / 3)
    second = solve(matrix, b, 2)
    assert second.x.tolist() == pytest.approx([1, 0.5])
    assert second.num_iterations == 2


@pytest.mark.parametrize("num", [1, 2, 5, 9])
def test_it_solves_exactly_after_as_many_iterations_as_there_are_dimensions(num):
    matrix, b = symmetric(*range(1, num + 1)), vector(num)
    found = solve(matrix, b, num)
    torch.testing.assert_close(found.x, torch.linalg.solve(matrix, b), rtol=0, atol=1e-9)
    assert found.residual < 1e-9
    assert found.curved


def test_equal_eigenvalues_count_once():
    """Two distinct ones among six: two iterations, and no third."""
    matrix, b = symmetric(1, 1, 1, 5, 5, 5), vector(6)
    found = solve(matrix, b, 50)
    assert found.num_iterations == 2
    torch.testing.assert_close(found.x, torch.linalg.solve(matrix, b), rtol=0, atol=1e-10)


@pytest.mark.parametrize("iterations", [1, 3, 7])
def test_the_residual_is_the_true_one(iterations):
    matrix, b = symmetric(*[1.5**k for k in range(9)]), vector(9)
    found = solve(matrix, b, iterations)
    assert found.residual == pytest.approx(float((b - matrix @ found.x).norm() / b.norm()), rel=1e-9)
    assert found.num_iterations == iterations
    assert found.residual > 1e-6


def test_every_iteration_gets_nearer_in_the_norm_of_the_matrix():
    """The x of k iterations is the best of its Krylov space, so the error in x.Ax only falls."""
    matrix, b = symmetric(*[3.0**k for k in range(8)]), vector(8)
    exact = torch.linalg.solve(matrix, b)
    errors = [float((x - exact) @ matrix @ (x - exact)) for x in (solve(matrix, b, k).x for k in range(9))]
    assert all(later < before for before, later in itertools.pairwise(errors))


def test_it_ends_early_once_the_residual_is_small():
    matrix, b = symmetric(1, 10, 100, 1000), vector(4)
    found = solve(matrix, b, 4, tolerance=0.5)
    assert found.num_iterations < 4
    assert found.residual <= 0.5


def test_nothing_to_solve():
    found = solve(symmetric(1, 2), torch.zeros(2, dtype=torch.float64), 5)
    assert found.x.tolist() == [0, 0]
    assert (found.residual, found.num_iterations, found.curved) == (0, 0, True)


def test_negative_curvature_stops_and_is_reported():
    """Pitfall 21. A = diag(1, -1), b = (2, 1): b.Ab = 3 > 0, so the first step has length 5/3 and is kept; the
    residual is (2 - 10/3, 1 + 5/3) = (-4/3, 8/3), the next direction has negative curvature."""
    matrix, b = torch.diag(torch.tensor([1.0, -1.0], dtype=torch.float64)), torch.tensor([2.0, 1.0]).double()
    found = solve(matrix, b, 10)
    assert not found.curved
    assert found.num_iterations == 1
    assert found.x.tolist() == pytest.approx([10 / 3, 5 / 3])
    assert found.residual == pytest.approx(math.sqrt((4 / 3) ** 2 + (8 / 3) ** 2) / math.sqrt(5))


@pytest.mark.parametrize("scale", [-1.0, 0.0, math.nan])
def test_no_curvature_from_the_start_leaves_zero(scale):
    found = conjugate_gradients(lambda v: scale * v, vector(3), iterations=10)
    assert not found.curved
    assert found.x.tolist() == [0, 0, 0]
    assert (found.residual, found.num_iterations) == (1, 0)


def test_the_right_hand_side_is_left_alone():
    b = vector(3)
    before = b.clone()
    solve(symmetric(1, 2, 3), b, 3)
    assert torch.equal(b, before)
