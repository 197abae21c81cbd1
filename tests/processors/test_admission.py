"""Which trades are new, by their ids."""

from processors.admission import MOST_HOLES, REMEMBERED_IDS, Admission, Verdict


def offer(admission: Admission, sequence: int | None, trade_id: str = "", after_gap: bool = False) -> Verdict:
    verdict = admission.judge(sequence, trade_id, after_gap)
    if verdict is not Verdict.DUPLICATE:
        admission.note(sequence, trade_id)
    return verdict


def test_a_hole_shrinks_with_every_repair_until_it_is_gone() -> None:
    admission = Admission()
    story = [(10, Verdict.NEXT), (15, Verdict.AFTER_HOLE), (12, Verdict.REPAIR), (12, Verdict.DUPLICATE)]
    story += [(11, Verdict.REPAIR), (14, Verdict.REPAIR), (13, Verdict.REPAIR), (13, Verdict.DUPLICATE)]
    story += [(9, Verdict.DUPLICATE), (15, Verdict.DUPLICATE), (16, Verdict.NEXT)]
    assert [(number, offer(admission, number)) for number, _ in story] == story
    assert admission.snapshot() == [16, [], [], False]


def test_holes_are_few() -> None:
    """The lowest holes are forgotten: an id of theirs counts as a duplicate."""
    admission = Admission()
    for number in range(0, 2 * (MOST_HOLES + 3), 2):
        offer(admission, number)
    assert len(admission.snapshot()[1]) == MOST_HOLES
    assert (offer(admission, 3), offer(admission, 5)) == (Verdict.DUPLICATE, Verdict.REPAIR)


def test_ids_that_do_not_count_are_remembered_for_a_while() -> None:
    admission = Admission()
    for number in range(REMEMBERED_IDS + 1):
        assert offer(admission, None, f"x{number}") is Verdict.NEXT
    assert offer(admission, None, "x1") is Verdict.DUPLICATE
    assert offer(admission, None, "x0") is Verdict.NEXT
    assert offer(admission, None, "x1") is Verdict.NEXT


def test_after_gap_counts_only_where_ids_do_not() -> None:
    admission = Admission()
    assert offer(admission, None, "a", after_gap=True) is Verdict.AFTER_HOLE
    assert offer(admission, None, "b") is Verdict.NEXT
    assert offer(admission, 5, "c", after_gap=True) is Verdict.NEXT


def test_a_refused_trade_whose_ids_do_not_count_is_owed_a_gap() -> None:
    admission = Admission()
    offer(admission, None, "a")
    admission.miss(None)
    assert offer(admission, None, "a") is Verdict.DUPLICATE
    assert offer(admission, None, "c") is Verdict.AFTER_HOLE
    assert offer(admission, None, "d") is Verdict.NEXT


def test_whole_batches_are_taken_only_without_any_doubt() -> None:
    admission = Admission()
    assert not admission.take_all([1, 2])
    offer(admission, 1)
    for doubtful in ([3, 4], [2, 4], [2, 2], [2, None], [1, 2], [2, 3, 3]):
        assert not admission.take_all(doubtful)
    assert admission.take_all([2, 3, 4])
    assert offer(admission, 5) is Verdict.NEXT
