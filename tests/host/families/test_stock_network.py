"""Every family's trained network is exported as a stock diffusers class, where diffusers has one."""

import diffusers
import pytest

from simpletuner_twinflow.host.checkpoints.stock_pipeline import stock_network
from testbed.host_models.build import family_model_of
from testbed.host_models.flow import host_model
from testbed.host_models.zoo import ZOO

WITHOUT = {
    "ace_step",
    "flux3_image",
    "flux3_image klein",
    "moss_image",
    "z_image_omni",
    "boogu_image",
    "mageflow",
    "anima",
    "zlab_i1",
}  # families that diffusers does not have


@pytest.mark.parametrize("family", [family for family, tiny in ZOO.items() if tiny.made_anew])
def test_trained_network_becomes_the_stock_class_with_the_same_weights(family, folder):
    model = host_model(family, folder)
    adapter = family_model_of(model)
    network = model.get_trained_component(unwrap_model=True)
    stock = stock_network(network, adapter.time_conditioning_modules())
    home = "simpletuner" if family in WITHOUT else "diffusers"
    assert type(stock).__module__.split(".")[0] == home
    assert (type(stock) is getattr(diffusers, type(network).__name__, None)) == (family not in WITHOUT)
    weights, trained = stock.state_dict(), network.state_dict()
    left_out = trained.keys() - weights.keys()
    assert left_out
    assert all(key.startswith(tuple(f"{name}." for name in adapter.time_conditioning_modules())) for key in left_out)
    assert [key for key in weights if not weights[key].equal(trained[key])] == []
    shared = dict(network.named_parameters())
    assert [key for key, weight in stock.named_parameters() if weight.data_ptr() != shared[key].data_ptr()] == []


def test_network_that_the_stock_class_cannot_hold_stays_the_hosts_and_the_log_names_the_weights(folder, caplog):
    model = host_model("sd3", folder)
    adapter = family_model_of(model)
    network = model.get_trained_component(unwrap_model=True)
    network.register_parameter("stray", next(network.parameters()))
    assert stock_network(network, adapter.time_conditioning_modules()) is network
    assert "stray" in caplog.text
    assert "need SimpleTuner" in caplog.text
