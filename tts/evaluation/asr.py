"""An independent recognizer for evaluation: PocketSphinx with a loop over the words of a few sentences at a time.

A closed vocabulary makes a small recognizer a fair judge: clear human readers score a word error rate of .10 to .20.
"""

from collections.abc import Sequence

import numpy as np
import soxr

from solfa.tokenizers.text.tokenizer import TextTokenizer

RATE = 16_000


class Recognizer:
    """Recognizes words of a given vocabulary; pronunciations come from the text front end."""

    def __init__(self, text: TextTokenizer, vocabulary: Sequence[str]):
        import pocketsphinx

        self.decoder = pocketsphinx.Decoder(
            hmm=pocketsphinx.get_model_path("en-us/en-us"), lm=None, dict=None, samprate=RATE, loglevel="FATAL"
        )
        words = sorted(set(vocabulary))
        for i, (_, phones) in enumerate(zip(words, text.pronounce(words), strict=True)):
            pronunciation = " ".join("AH" if p.rstrip("012") == "ax" else p.rstrip("012").upper() for p in phones)
            self.decoder.add_word(f"w{i}", pronunciation, i + 1 == len(words))
        self.words = words
        loop = " | ".join(f"w{i}" for i in range(len(words)))
        self.decoder.add_jsgf_string("loop", f"#JSGF V1.0; grammar loop; public <loop> = ( {loop} )+ ;")
        self.decoder.activate_search("loop")

    def recognize(self, samples: np.ndarray, sample_rate: int) -> list[str]:
        """samples: float (n,) -> the words recognized, in order."""
        x = soxr.resample(samples.astype(np.float32), sample_rate, RATE)
        x = x * (0.5 / max(float(np.abs(x).max(initial=0.0)), 1e-3))
        silence = np.zeros(RATE // 5, np.float32)
        sound = np.concatenate([silence, x, silence])
        sound = sound + np.random.default_rng(0).standard_normal(len(sound)) * 1e-4
        self.decoder.start_utt()
        self.decoder.process_raw((np.clip(sound, -1, 1) * 32767).astype(np.int16).tobytes(), full_utt=True)
        self.decoder.end_utt()
        best = self.decoder.hyp()
        return [self.words[int(w[1:])] for w in best.hypstr.split()] if best and best.hypstr else []
