"""Random models of real architectures, and inputs for them."""

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Wav2Vec2FeatureExtractor,
    WavLMConfig,
    WavLMModel,
)

from speechbrain_ext.model.decoder import Decoder
from speechbrain_ext.model.encoder import SpeechEncoder
from speechbrain_ext.model.encoder_cores import WaveformCore
from speechbrain_ext.model.prompt import Prompt, assemble
from speechbrain_ext.model.speech_llm import Projector, SpeechLLM

SAMPLE_RATE = 16_000
JOINED = 5  # 50 Hz frames to a speech token

VOCABULARY = 151_936  # Qwen2.5's
# Models that there are: kind; vocabulary, width, MLP's width, layers, heads,
# heads of keys; whether the head is the embeddings.
PUBLISHED = {
    "Llama-3.1-8B": (LlamaConfig, 128_256, 4096, 14_336, 32, 32, 8, False),
    "Llama-3.2-1B": (LlamaConfig, 128_256, 2048, 8192, 16, 32, 8, True),
    "Qwen2.5-1.5B": (Qwen2Config, VOCABULARY, 1536, 8960, 28, 12, 2, True),
    "Qwen2.5-7B": (Qwen2Config, 152_064, 3584, 18_944, 28, 28, 4, False),
    "Qwen2.5-72B": (Qwen2Config, 152_064, 8192, 29_568, 80, 64, 8, False),
}


def published_config(name):
    """A configuration in the sizes of a model that there is."""
    kind, vocabulary, width, inner, layers, heads, keys, tied = PUBLISHED[name]
    return kind(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=keys,
        max_position_embeddings=8192,
        tie_word_embeddings=tied,
    )


def qwen2_config(layers, width, vocabulary=VOCABULARY, tied=True):
    """A configuration in Qwen2.5's proportions."""
    heads = max(width // 64, 1)
    return Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=int(width * 5.25) // 16 * 16,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=max(heads // 4, 1),
        tie_word_embeddings=tied,
        max_position_embeddings=2048,
        # Large enough that random answers do not just repeat one token.
        initializer_range=0.06,
        bos_token_id=0,
        eos_token_id=1,
    )


# A random decoder's sizes, in words.
DECODER = "{layers} layers, {width} wide, vocabulary {vocabulary:,}"


def config_of(sizes):
    """The configuration of some sizes."""
    return qwen2_config(*(sizes[n] for n in ("layers", "width", "vocabulary")))


def random_lm(sizes):
    """A frozen random causal LM of the Qwen2 kind, in eval mode."""
    torch.manual_seed(0)
    lm = Qwen2ForCausalLM(config_of(sizes))
    lm.generation_config.pad_token_id = 2
    return lm.eval().requires_grad_(False)


def words_tokenizer(vocabulary):
    """A tokenizer whose every id is a word of its own, w0, w1 and so on."""
    words = {f"w{index}": index for index in range(vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w3"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="w0", eos_token="w1"
    )


def random_decoder(sizes, words=1000):
    """The same as `random_lm`, in our wrapper, with so many words (Decoder)."""
    words = min(sizes["vocabulary"], words)
    return Decoder(random_lm(sizes), words_tokenizer(words))


def random_speech_llm(sizes, words=1000):
    """A random speech LLM that reads features (SpeechLLM)."""
    decoder = random_decoder(sizes, words)
    return speech_llm(sizes["features"], decoder, sizes["prompt"])


def speech_llm(features, decoder, prompt_tokens, encoder=None):
    """A random projector between features and a decoder (SpeechLLM)."""
    before = torch.arange(4, 4 + prompt_tokens)
    prompt = Prompt(before[:0], before, decoder.tokenizer)
    torch.manual_seed(3)
    projector = Projector(features, decoder.width)
    return SpeechLLM(encoder, projector, decoder, prompt, JOINED).eval()


def wavlm_config(width, layers, heads, **more):
    """A configuration in WavLM-Large's proportions."""
    return WavLMConfig(
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
        **more,
    )


def random_wavlm(width, layers, heads, **more):
    """A frozen random WavLM, as transformers builds it, in eval mode."""
    torch.manual_seed(6)
    model = WavLMModel(wavlm_config(width, layers, heads, **more))
    return model.eval().requires_grad_(False)


def wrapped(wavlm):
    """The same as ours runs it (SpeechEncoder)."""
    core = WaveformCore(wavlm.eval(), Wav2Vec2FeatureExtractor())
    return SpeechEncoder(core, "random", "wavlm")


def noise(rows, seconds, shortest, device="cpu"):
    """Utterances of mixed lengths: waveforms and samples of each."""
    longest = seconds * SAMPLE_RATE
    lengths_B = (torch.linspace(shortest, 1, rows) * longest).long()
    return 0.1 * torch.randn(rows, longest, device=device), lengths_B


def prompts(lm, lengths):
    """Rows to decode, random embeddings of given lengths, padded left."""
    embed = lm.get_input_embeddings()
    torch.manual_seed(1)
    rows = [torch.randn(n, embed.embedding_dim) * 0.06 for n in lengths]
    nothing = torch.arange(0)
    return assemble(Prompt(nothing, nothing, None), rows, embed, side="left")


def training_batch(sizes):
    """Features and targets of one training step of some sizes."""
    torch.manual_seed(2)
    rows, speech = sizes["rows"], sizes["speech"]

    def lengths(longest):
        shorter = torch.randint(max(longest // 5, 1), (rows,))
        return [longest] + (longest - shorter).tolist()[1:]

    x_BSF = torch.randn(rows, speech, sizes["features"])
    targets = [
        torch.randint(sizes["vocabulary"], (n,))
        for n in lengths(sizes["target"])
    ]
    return x_BSF, torch.tensor(lengths(speech)), targets


def projector_step(model, batch):
    """A step's loss (float), and gradients of the projector."""
    model.projector.zero_grad(set_to_none=True)
    logits_NV, labels_N = model(*batch)
    loss = torch.nn.functional.cross_entropy(logits_NV.float(), labels_N)
    loss.backward()
    return loss.item()
