"""The aggregator has silos train on different global models: each update alone then says more of its silo.

A round names the digest of the model that it starts from, and every silo has that model from its own openings: it
takes part on no other, not on one that the aggregator made up, and not on the one before once more. The digest is in
ctx, so nobody's signature on one model stands for another, and no round goes on until all have signed the same.
"""

from cloister import wire

from privacy.envelope import UpdateHeader
from privacy.statement import read
from privacy.transcript import Applied, RoundJoin


def of_round(number, statements, kind):
    return [signed for signed in statements if read(signed, kind).round == number]


def test_west_is_shown_another_model_than_its_peers(collected):
    world = collected
    initial = bytes.fromhex(world.runner.live(world.job).plan.initial_adapter)
    for model in (b"x" * 32, initial):

        def swapped(silo, asked, honest, model=model):
            view = wire.Round.decode(honest(asked))
            if (silo, asked.round) == ("west", 2):
                view = view.model_copy(update={"adapter_digest": model})
            return view.encode()

        world.lies["GetRound"] = swapped
        world.complaints.clear()
        world.run(until=lambda: "west" in world.complaints)
        assert "starts from another global adapter than this silo's" in world.complaints["west"].why
    assert len({read(signed, Applied).adapter for name in world.silos for signed in world.said(name, Applied)}) == 1
    assert of_round(2, world.said("west", RoundJoin), RoundJoin) == []
    assert [len(of_round(2, world.said(name, RoundJoin), RoundJoin)) for name in ("east", "north")] == [1, 1]
    for name in world.silos:
        assert of_round(2, world.said(name, UpdateHeader), UpdateHeader) == []


def test_all_but_west_are_shown_another_model(collected):
    """What is left is a round that nobody joins."""
    world = collected

    def swapped(silo, asked, honest):
        view = wire.Round.decode(honest(asked))
        lie = {"adapter_digest": b"x" * 32} if silo != "west" and asked.round == 2 else {}
        return view.model_copy(update=lie).encode()

    world.lies["GetRound"] = swapped
    world.run(until=lambda: {"east", "north"} <= world.complaints.keys())
    world.turn()
    assert of_round(2, world.said("east", RoundJoin) + world.said("north", RoundJoin), RoundJoin) == []
    assert of_round(2, world.said("west", UpdateHeader), UpdateHeader) == []
