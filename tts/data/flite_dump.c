/* Speak many sentences with Flite and print what it decided: words, phones, lexical stress, times (build-time tool).
 *   cc -O2 -o flite_dump tts/flite_dump.c -lflite_cmu_us_slt -lflite_cmu_us_rms -lflite_cmu_us_awb -lflite_cmu_us_kal16 \
 *      -lflite_usenglish -lflite_cmulex -lflite -lm          (Debian: gcc, flite1-dev; Flite 2.2)
 *   printf 'a1\tHello there.\n' | ./flite_dump slt OUT_DIR > labels.jsonl        (see --help)
 * Flite is never needed at run time: this makes training speech with exact labels, and pronunciations for the lexicon. */
#include <ctype.h>
#include <flite/flite.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

cst_voice *register_cmu_us_slt(const char *), *register_cmu_us_rms(const char *), *register_cmu_us_awb(const char *),
    *register_cmu_us_kal16(const char *);

static const char HELP[] =
    "usage: flite_dump VOICE [--stretch X] [--f0mean HZ] [--f0std HZ] [--no-wave] [OUT_DIR] < lines\n"
    "  VOICE      slt (woman, US) | rms (man, US) | awb (man, Scottish) | kal16 (man, US, diphones)\n"
    "  lines      id<TAB>text, one clip a line; ids are file names without a folder\n"
    "  --stretch  duration factor (1.3 = slower; default 1)   --f0mean, --f0std  pitch in Hz (default: the voice's own)\n"
    "  --no-wave  stop after the front end: no audio, no times, thousands of words a second\n"
    "OUT_DIR/id.wav is 16-bit mono; stdout has one JSON object a clip:\n"
    "  id, text, voice, sample_rate, duration (s), wav,\n"
    "  words:    [{word, token, before, after}]   punctuation around the token is on its first and last word\n"
    "  segments: [[phone, stress, word, end]]     stress 1/0 on vowels, -1 elsewhere; word = index, -1 for pau; end in seconds\n"
    "            (kal16 may cut the last pau short in the audio)\n"
    "A line that cannot be spoken gives {id, error}. Exit code 1 if there was any.\n";

static const cst_synth_module FRONT_END[] = {
    {"tokenizer_func", default_tokenization}, {"textanalysis_func", default_textanalysis},
    {"pos_tagger_func", default_pos_tagger}, {"phrasing_func", default_phrasing},
    {"lexical_insertion_func", default_lexical_insertion}, {"pause_insertion_func", default_pause_insertion},
    {"intonation_func", cart_intonation}, {"postlex_func", NULL}, {NULL, NULL}};

static void quoted(const char *s) {
    putchar('"');
    for (; *s; s++) {
        if (*s == '"' || *s == '\\') printf("\\%c", *s);
        else if ((unsigned char)*s < 32) printf("\\u%04x", *s);
        else putchar(*s);
    }
    putchar('"');
}

static int speakable(cst_utterance *utt) {
    cst_item *s = utt ? relation_head(utt_relation(utt, "Segment")) : NULL;
    while (s && !strcmp(item_name(s), "pau")) s = item_next(s);
    return s != NULL;
}

static const char *text_of(const cst_item *item, const char *feature) {
    return item && item_feat_present(item, feature) ? item_feat_string(item, feature) : "";
}

static void print_words(cst_utterance *utt) {
    const char *gap = "";
    printf("\"words\": [");
    for (cst_item *w = relation_head(utt_relation(utt, "Word")); w; w = item_next(w)) {
        cst_item *in_token = item_as(w, "Token"), *token = in_token ? item_parent(in_token) : NULL;
        printf("%s{\"word\": ", gap), quoted((unsigned char)item_name(w)[0] < 128 ? item_name(w) : "?"); /* half a letter */
        printf(", \"token\": "), quoted(text_of(token, "name"));
        printf(", \"before\": "), quoted(token && !item_prev(in_token) ? text_of(token, "prepunctuation") : "");
        printf(", \"after\": "), quoted(token && !item_next(in_token) ? text_of(token, "punc") : "");
        printf("}"), gap = ", ";
    }
    printf("]");
}

static void print_segments(cst_utterance *utt, int timed) {
    const char *gap = "";
    int index = -1;
    cst_item *word = NULL;
    printf("\"segments\": [");
    for (cst_item *s = relation_head(utt_relation(utt, "Segment")); s; s = item_next(s)) {
        cst_item *in_syllable = item_as(s, "SylStructure"), *syllable = in_syllable ? item_parent(in_syllable) : NULL;
        int stress = -1, here = -1;
        if (syllable) {
            cst_item *owner = item_as(item_parent(syllable), "Word");
            for (; !word || !item_equal(word, owner); index++)
                word = word ? item_next(word) : relation_head(utt_relation(utt, "Word"));
            here = index;
            if (strchr("aeiou", item_name(s)[0])) stress = atoi(ffeature_string(syllable, "stress")) > 0;
        }
        printf("%s[\"%s\", %d, %d", gap, item_name(s), stress, here), gap = ", ";
        if (timed) printf(", %.4f", item_feat_float(s, "end"));
        printf("]");
    }
    printf("]");
}

static int speak(const char *id, const char *text, cst_voice *voice, const char *name, const char *folder) {
    cst_utterance *utt = new_utterance();
    cst_wave *wave = NULL;
    utt_set_input_text(utt, text);
    utt_init(utt, voice);
    utt = folder ? utt_synth(utt) : apply_synth_method(utt, FRONT_END);
    printf("{\"id\": "), quoted(id);
    if (!speakable(utt) || (folder && !(wave = utt_wave(utt)))) {
        puts(", \"error\": \"nothing to speak\"}");
        if (utt) delete_utterance(utt);
        return 1;
    }
    printf(", \"text\": "), quoted(text);
    printf(", \"voice\": \"%s\", ", name);
    if (wave) {
        char path[4096];
        if (snprintf(path, sizeof path, "%s/%s.wav", folder, id) >= (int)sizeof path || cst_wave_save_riff(wave, path)) {
            fprintf(stderr, "cannot write %s\n", path);
            exit(2);
        }
        printf("\"sample_rate\": %d, \"duration\": %.4f, \"wav\": ", wave->sample_rate, (double)wave->num_samples / wave->sample_rate);
        quoted(path), printf(", ");
    }
    print_words(utt), printf(", "), print_segments(utt, wave != NULL), puts("}");
    delete_utterance(utt);
    return 0;
}

int main(int argc, char **argv) {
    static const struct { const char *name; cst_voice *(*create)(const char *); } VOICES[] = {
        {"slt", register_cmu_us_slt}, {"rms", register_cmu_us_rms}, {"awb", register_cmu_us_awb}, {"kal16", register_cmu_us_kal16}};
    static char line[1 << 16];
    const char *name = argc > 1 ? argv[1] : "--help", *folder = NULL;
    cst_voice *voice = NULL;
    int waves = 1, failed = 0;
    if (!strcmp(name, "--help") || !strcmp(name, "-h")) return fputs(HELP, stdout), 0;
    flite_init();
    for (unsigned i = 0; i < sizeof VOICES / sizeof *VOICES; i++)
        if (!strcmp(name, VOICES[i].name)) voice = VOICES[i].create(NULL);
    if (!voice) return fprintf(stderr, "no voice '%s': slt, rms, awb or kal16\n", name), 2;
    for (int i = 2; i < argc; i++) {
        const char *feature = !strcmp(argv[i], "--stretch") ? "duration_stretch" : !strcmp(argv[i], "--f0mean") ? "int_f0_target_mean"
                            : !strcmp(argv[i], "--f0std") ? "int_f0_target_stddev" : NULL;
        if (feature && i + 1 < argc) feat_set_float(voice->features, feature, atof(argv[++i]));
        else if (!strcmp(argv[i], "--no-wave")) waves = 0;
        else if (argv[i][0] != '-' && !folder) folder = argv[i];
        else return fprintf(stderr, "unknown argument '%s'\n%s", argv[i], HELP), 2;
    }
    if (waves && !folder) return fprintf(stderr, "OUT_DIR is missing\n%s", HELP), 2;
    if (waves) mkdir(folder, 0777);
    while (fgets(line, sizeof line, stdin)) {
        char *text = strchr(line, '\t');
        line[strcspn(line, "\r\n")] = 0;
        if (!text) { fprintf(stderr, "a line without a tab: %s\n", line), failed = 1; continue; }
        *text++ = 0;
        failed |= speak(line, text, voice, name, waves ? folder : NULL);
        fflush(stdout);
    }
    return failed;
}
