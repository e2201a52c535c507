"""The ComfyUI workflows: every node, input, link and choice as ComfyUI's own definitions have them."""

import json
import re
from pathlib import Path

import pytest

from simpletuner_twinflow.sampling.comfyui import FAMILIES, comfyui_sigmas, why_not, workflow, written

TABLE = json.loads(Path(__file__).with_name("comfyui_nodes.json").read_text(encoding="utf-8"))["nodes"]
NUMBERS = {"INT": int, "FLOAT": (int, float)}


def drawn(family, **changes):
    """A workflow for a family."""
    settings = {"lora": "a.safetensors", "sigmas": [1.0, 0.5, 0.0], "sampler": "euler", "flavour": "dev"}
    return workflow(family, **settings | changes)


def faults(nodes):
    """What ComfyUI would refuse in a workflow, and what would not be drawn."""
    found = []
    for name, node in nodes.items():
        if node["class_type"] not in TABLE:
            found.append(f"{name}: there is no node {node['class_type']}")
            continue
        kind = TABLE[node["class_type"]]
        known = kind["required"] | kind["optional"]
        found += [f"{name}: {each} is missing" for each in kind["required"] if each not in node["inputs"]]
        for each, value in node["inputs"].items():
            if each not in known:
                found.append(f"{name}: there is no input {each}")
            elif problem := fault(known[each], value, nodes):
                found.append(f"{name}: {each} {problem}")
    linked = {value[0] for node in nodes.values() for value in node["inputs"].values() if isinstance(value, list)}
    return found + [
        f"{name}: leads nowhere"
        for name in nodes
        if name not in linked and TABLE.get(nodes[name]["class_type"], {}).get("output")
    ]


def fault(spec, value, nodes):
    """What is wrong with the value of an input, if anything."""
    if isinstance(value, list):
        source, place = value
        outputs = TABLE.get(nodes[source]["class_type"], {"output": []})["output"]
        return None if outputs[place : place + 1] == [spec["type"]] else f"is given {outputs[place : place + 1]}"
    if spec["type"] == "COMBO":
        return None if value in spec["choices"] else f"cannot be {value}"
    if spec["type"] in NUMBERS:
        right = isinstance(value, NUMBERS[spec["type"]]) and spec["min"] <= value <= spec["max"]
        return None if right else f"cannot be {value}"
    return None if spec["type"] in ("STRING", "FILE") and isinstance(value, str) else f"cannot be {value!r}"


@pytest.mark.parametrize("sampler", ["euler", "lcm"])
@pytest.mark.parametrize("family", FAMILIES)
def test_workflow_is_what_comfyuis_nodes_take(family, sampler):
    assert faults(drawn(family, sampler=sampler)) == []
    assert faults(drawn(family, embedded_guidance=1.0)) == []


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda nodes, at: nodes[at["KSamplerSelect"]]["inputs"].update(sampler_name="eulr"), "cannot be eulr"),
        (lambda nodes, at: nodes[at["BasicGuider"]]["inputs"].pop("model"), "model is missing"),
        (lambda nodes, at: nodes[at["BasicGuider"]]["inputs"].update(cfg=1.0), "no input cfg"),
        (
            lambda nodes, at: nodes[at["VAEDecode"]]["inputs"].update(vae=[at["LoraLoaderModelOnly"], 0]),
            "is given ['MODEL']",
        ),
        (lambda nodes, at: nodes[at["VAEDecode"]]["inputs"].update(vae=[at["VAELoader"], 1]), "is given []"),
        (lambda nodes, at: nodes[at["ManualSigmas"]].update(class_type="Sigmas"), "no node Sigmas"),
        (lambda nodes, at: nodes[at["RandomNoise"]]["inputs"].update(noise_seed=-1), "cannot be -1"),
        (lambda nodes, at: nodes.update(more=nodes[at["VAELoader"]]), "leads nowhere"),
    ],
)
def test_check_sees_what_comfyui_would_refuse(change, fault):
    nodes = drawn("flux")
    change(nodes, {node["class_type"]: name for name, node in nodes.items()})
    assert any(fault in each for each in faults(nodes))


def test_path_from_noise_to_picture_has_the_adapter_the_sigmas_and_no_negative_prompt():
    nodes = drawn("qwen_image", prompt="a cat", size=(512, 768), seed=7)
    by_kind = {node["class_type"]: node["inputs"] for node in nodes.values()}
    assert by_kind["LoraLoaderModelOnly"]["strength_model"] == 1  # the file is the whole change
    assert nodes[by_kind["BasicGuider"]["model"][0]]["class_type"] == "LoraLoaderModelOnly"
    assert nodes[by_kind["VAEDecode"]["samples"][0]]["class_type"] == "SamplerCustomAdvanced"
    assert by_kind["ManualSigmas"]["sigmas"] == "1, 0.5, 0"
    assert (by_kind["CLIPTextEncode"]["text"], by_kind["RandomNoise"]["noise_seed"]) == ("a cat", 7)
    assert (by_kind["EmptySD3LatentImage"]["width"], by_kind["EmptySD3LatentImage"]["height"]) == (512, 768)
    assert "FluxGuidance" not in by_kind
    usual = {node["class_type"]: node["inputs"] for node in drawn("qwen_image").values()}["EmptySD3LatentImage"]
    assert (usual["width"], usual["height"]) == (1024, 1024)
    assert {node["class_type"]: node["inputs"] for node in drawn("flux", embedded_guidance=1.5).values()}[
        "FluxGuidance"
    ]["guidance"] == 1.5


@pytest.mark.parametrize("sigmas", [[1.0, 0.6489998, 1 / 3, 0.25, 0.0], [14.6146, 0.00001, 0.0], [1.0, 0.0]])
def test_sigmas_are_written_so_that_comfyui_reads_them(sigmas):
    # The expression with which ComfyUI's ManualSigmas reads its text; it takes "1e-05" for 1 and 05.
    read = [float(each) for each in re.findall(r"[-+]?(?:\d*\.*\d+)", written(sigmas))]
    assert read == pytest.approx(sigmas, abs=1e-8)


def test_sigmas_of_a_flow_are_its_times_and_of_diffusion_the_noise_for_data_of_weight_one():
    assert comfyui_sigmas((1.0, 0.5), diffusion=False) == [1.0, 0.5, 0.0]
    assert comfyui_sigmas((0.75, 0.5), diffusion=True) == [3.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("adapter", "reason"),
    [
        (("sd3", "medium", "diffusers"), None),
        (("sdxl", "base-1.0", "comfyui"), None),
        (("sdxl", "base-1.0", "diffusers"), 'lora_format "comfyui"'),
        (("chroma", "hd", "comfyui"), 'lora_format "diffusers"'),
        (("flux", "kontext", "diffusers"), "no workflow is known for flux kontext"),
        (("qwen_image", "v2.1", "diffusers"), "no workflow is known"),
        (("wan", "", "comfyui"), "does not draw wan, or finds none of the layers"),
    ],
)
def test_adapter_that_comfyui_cannot_read_has_no_workflow_and_the_reason_is_named(adapter, reason):
    found = why_not(*adapter)
    assert (found is None) if reason is None else (reason in found)
