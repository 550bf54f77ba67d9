from finetune.codecs.objects import ObjectReader

TEXT = "<loc0000><loc0000><loc0512><loc0512> cat ; nonsense ; <loc0512><loc0512><loc1023><loc1023> dog"


def test_objects_are_read_in_order_without_scores_where_there_are_no_probabilities() -> None:
    found = ObjectReader(divisor=1024).read(TEXT, (1024, 1024))
    assert found == [
        {"label": "cat", "box_xyxy": [0.0, 0.0, 512.0, 512.0]},
        {"label": "dog", "box_xyxy": [512.0, 512.0, 1023.0, 1023.0]},
    ]


def test_a_score_counts_locations_and_label_but_no_mask_codes() -> None:
    text = "<loc0000><loc0000><loc0512><loc0512>" + "<seg000>" * 16 + " cat"
    ends = [9, 18, 27, 36, *range(44, 36 + 16 * 8 + 1, 8), len(text)]
    probabilities = [0.5] * 4 + [0.0] * 16 + [1.0]
    (found,) = ObjectReader().read(text, (10, 10), ends, probabilities)
    assert found["score"] == 0.6
