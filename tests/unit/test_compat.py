"""The private names of other libraries are still there, and still do what we need of them."""

import torch
from transformers import CLIPModel

from sdhelpers import compat, models


def test_a_drawing_that_is_stopped_ends_after_its_step(pipe):
    seen = []

    def after_step(pipe, step, timestep, tensors):
        seen.append(step)
        compat.stop(pipe)
        return tensors

    pipe("a cat", num_inference_steps=3, width=64, height=64, callback_on_step_end=after_step)
    assert seen == [0]


def test_a_pipeline_says_where_it_computes(pipe):
    assert compat.run_device(pipe) == torch.device("cpu")


def test_the_last_norm_is_what_the_text_encoder_ends_with(pipe):
    ids = torch.tensor([[pipe.tokenizer.bos_token_id, pipe.tokenizer.eos_token_id]])
    with torch.no_grad():
        output = pipe.text_encoder(ids, output_hidden_states=True)
        ours = compat.final_norm(pipe.text_encoder)(output.hidden_states[-1])
    assert torch.equal(ours, output.last_hidden_state)


def test_tensors_of_the_fake_mode_have_no_content():
    with compat.FakeTensorMode():
        assert (torch.ones(10**9, 10**6) @ torch.ones(10**6, 2)).shape == (10**9, 2)


def test_features_are_a_tensor():
    clip = CLIPModel.from_pretrained(models.locate("clip"))
    side = clip.config.vision_config.image_size
    with torch.no_grad():
        features = clip.get_image_features(pixel_values=torch.zeros(1, 3, side, side))
    assert compat.as_tensor(features).shape == (1, clip.config.projection_dim)
