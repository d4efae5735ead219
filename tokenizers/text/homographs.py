"""Words that are written alike and spoken differently ("read", "lead", "close"): which reading their neighbours ask for.

Two means: rules for single words (`RULES`: patterns over the words around, `_` is the word itself, the first that matches
decides), and for nouns and verbs of one spelling ("record", "use", "estimate") the part of speech, judged by the words before
and after.  There is no tagger behind it: a reading that needs the meaning of the whole sentence stays the usual one.
"""

import re
from functools import cache

# Before these a homograph ("record", "use") is a verb, before or after those a noun or adjective.
VERB_AFTER = frozenset(
    "to i you we they who will would can could may might must shall should do does did don't doesn't didn't won't can't "
    "cannot couldn't wouldn't shouldn't not never please let's it'll i'll we'll you'll they'll he'll she'll i'd you'd".split()
)
NOUN_AFTER = frozenset(
    "the a an my your his its our their this that these those no any some each every all many few several such own other two three of in on at for by with from as is was "
    "are were be been being very so more most".split()
)
OBJECTS = frozenset("the a an my your his her its our their this that these those it them me him us".split())
THIRD_PERSON = frozenset(
    "he she it who which that never always also often usually".split()
)  # before verbs that end in s
ADVERBS = frozenset("never always also often usually still just only even really simply then ever soon".split())
PLURAL = re.compile(
    r"people|children|men|women|\w{3,}(?<![isu'])s"
)  # the subject of a verb, when it stands near the beginning
NO_SUBJECTS = frozenset(  # these stand before nouns
    "sports sales news savings goods arms this his was has yes always perhaps various less across towards besides sometimes "
    "does business previous process access express class press cross its is as us".split()
)
WINDOW = 12  # words on each side that can decide

_BE = r"(?:is|are|was|were|be|been|being|am|i'm|it's|he's|she's|they're|we're|you're|isn't|wasn't|aren't)"
_HAVE = r"(?:has|have|had|having|i've|you've|we've|they've|he'd|she'd|haven't|hasn't|hadn't)"
_MODAL = (
    r"(?:to|will|would|can|could|may|might|must|shall|should|do|does|did|don't|doesn't|didn't|won't|can't|cannot|couldn't|wouldn't|"
    r"shouldn't|let's|i'll|you'll|we'll|they'll|he'll|she'll|it'll|please|let (?:me|him|her|us|them)|help(?:ed|s)? (?:me|him|her|us|them)|"
    r"make (?:me|him|her|us|them)|made (?:me|him|her|us|them))"
)
_ADVERB = r"(?:(?:not|never|always|also|often|still|just|only|even|already|ever|recently|\w+ly) )?"
_METALS = r"(?:zinc|copper|mercury|tin|iron|silver|gold|cadmium|arsenic|steel|nickel)"

_LEAD_METAL, _LEAD = "l eh1 d", "l iy1 d"
_LIVE, _LIVELY = "l ih1 v", "l ay1 v"
_NEAR, _SHUT = "k l ow1 s", "k l ow1 z"
_BEND, _KNOT = "b aw1", "b ow1"
_READ, _HAS_READ = "r iy1 d", "r eh1 d"

# word: [(pattern over the words around, reading)]; a word without a match is left to the lexicon.
RULES: dict[str, list[tuple[str, str]]] = {
    "read": [
        (rf"\b{_MODAL} {_ADVERB}(?:\w+ and )?_\b|\b(?:do|does|did|can|could|will|would|should|may) (?:\w+ ){{1,2}}_\b", _READ),
        (rf"\b(?:{_HAVE}|{_BE}) {_ADVERB}_\b|\b(?:well|widely|just|once|already|recently) _\b|\b{_HAVE} \w+ (?:ever )?_\b", _HAS_READ),
        (r"\b(?:my|his|her|the|our|your|their) (?!children\b|people\b|men\b|women\b)\w+(?<!s) _\b", _HAS_READ),
        (r"\b(?:he|she|it|who|\w+(?<!s)'s|never|finally|then|aloud) _\b", _HAS_READ),
        (r"\b(?:good|great|quick|long|easy|an?|interesting|must|worth a) _(?! only\b)\b", _READ),
        (r"_.*\b(?:yesterday|ago|last \w+|when (?:i|he|she|we|they) (?:was|were)|aloud to us)\b", _HAS_READ),
        (r"\b(?:yesterday|ago|last \w+|once)\b.* _\b", _HAS_READ),
        (r"_.*\b(?:every|always|often|usually|sometimes|daily)\b|\b(?:always|often|usually|sometimes|seldom|rarely) _\b", _READ),
        (r"^_\b|\b(?:and|then|you|they|people|children|students|\w+(?:ers|ies|ents|ids)) _\b|\b(?:if|when|as) (?:you|we|they|i) _\b", _READ),
        (r"\b(?:i|we) _\b", _HAS_READ),
    ],
    "lead": [
        (r"_ (?:singers?|roles?|actors?|actress|guitar\w*|vocal\w*|times?|story|authors?|engineers?|designers?|investigator|to|us|me|them|him|her|by)\b", _LEAD),
        (r"_ (?:paint|pipes?|poisoning|bullets?|shot|ore|mines?|acid|weights?|levels?|exposure|pencils?|roof|based|free|oxide|glass|crystal|contamination|plates?|batter(?:y|ies)|sheets?|content)\b", _LEAD_METAL),
        (rf"_ and {_METALS}\b|\b{_METALS} (?:and|or) _\b|_ in (?:it|them|(?:the )?(?:water|paint|gasoline|petrol|drinking|soil|blood|pipes))\b", _LEAD_METAL),
        (r"\b(?:made of|tons? of|pounds? of|piece of|lump of|sheets? of|pieces of|traces of|made from|(?:covered|coated|lined|wrapped) (?:in|with)|molten|melted|heavy as|melt|containing|contains?|like) _\b|\bpencils?\b.* _\b(?! to\b)", _LEAD_METAL),
        (r"_ is (?:a |an )?(?:\w+ )?(?:metal|element|toxic|poison\w*|heavy|soft|dense|heavier)\b", _LEAD_METAL),
        (r"_", _LEAD),
    ],
    "live": [
        (r"_ (?:music|shows?|concerts?|broadcast\w*|stream\w*|audiences?|tv|television|coverage|performances?|albums?|recordings?|wires?|bait|ammunition|rounds|animals?|birds?|chat|video|events?|updates?|on (?:the )?(?:air|tv|stage|television|radio|screen)|from)\b", _LIVELY),
        (r"\b(?:go|goes|went|going|gone|broadcast|aired|streamed|performed|performing|perform|play|played|playing|sang|sing|singing|reporting|recorded|shown|watched? (?:it|them|him|her)|saw (?:it|them|him|her)|see (?:it|them|him|her)) _\b", _LIVELY),
        (r"\b(?:watch|watched|watching|see|saw|seen|heard|hear|shown|aired|covered)\b.* _$", _LIVELY),
        (rf"\b{_BE} (?:now |also |finally |not |still |currently |all )?_(?! in \w+ (?:house|town|city)\b)", _LIVELY),
        (r"\b(?:an?|the|this|another|first|our) _ \w+", _LIVELY),
        (r"_", _LIVE),
    ],
    "lives": [
        (r"\b(?:he|she|it|who|that|which|never|still|now|mother|father|brother|sister|family|uncle|aunt|friend|son|daughter|man|woman|one|nobody|everyone|someone) _\b", "l ih1 v z"),
        (r"(?<!their )(?<!our )(?<!your )(?<!his )(?<!her )(?<!the )\b_ (?:in|at|near|alone|there|here|next|with|on)\b(?!.*\blives of\b)", "l ih1 v z"),
        (r"_", "l ay1 v z"),
    ],
    "close": [
        (r"\b(?:the|a|its) _ of\b|\b(?:to|at) (?:a|the|its) _\b", _SHUT),
        (r"\b(?:stay|stays|stayed|staying|come|comes|came|coming|get|gets|got|getting|so|too|very|how|as|pretty|fairly|really|sit|sat|stand|stood|keep|kept|hold|held|live|lived|bring|drew|draw|lie|lay|move|moved|up|quite|extremely|dangerously|this|that|a|remained?|are|is|was|were|be|been|am|i'm|it's|we're|they're|became|become) _\b", _NEAR),
        (rf"\b{_MODAL} {_ADVERB}_\b", _SHUT),
        (r"_ (?:friends?|calls?|relatives?|relations?|relationships?|together|enough|attention|range|quarters|ties|look|watch|second|behind|proximity|family|contact|race|games?|by|to|combat|encounters?|up of|ups?|cousins?|allies|ally|knit|shave)\b", _NEAR),
        (r"^_|_ (?:at|down|out|early|tomorrow|today|when|for|the|your|its|his|her|their|my|our|it|them|this|that|off|and open|all|every)\b|\b(?:then|open and|we|they|you|i|stores|shops|banks|schools|offices) _\b", _SHUT),
        (r"_", _NEAR),
    ],
    "bow": [
        (r"_ (?:and (?:an )?arrows?|ties?|hunt\w*|strings?|legged|saw|in (?:her|his|your|my) hair|on (?:the|a|top))\b", _KNOT),
        (r"\b(?:shot|shoots?|hunts?|hunted|armed|played?)\b.* with (?:a|his|her|the) _\b", _KNOT),
        (r"\bwith (?:a|an|the|his|her) (?:\w+ ){0,2}_$", _BEND),
        (r"\b(?:violin|cello|fiddle|hair|ribbon|pink|red|blue|white|yellow|silk|long|cross|archer's|hunter's|hunting|compound|wooden|tied (?:in|into|with) a|in a|drew (?:his|her|the|a)|draw (?:his|her|the|your|a)|arrows? and) _\b", _KNOT),
        (r"\b(?:take|takes|took|taking|taken|made|make|makes|gave|give|deep|low|little|polite|final|formal) (?:an? |his |her )?(?:deep |low |little |polite |final )?_\b", _BEND),
        (rf"\b{_MODAL} {_ADVERB}_\b|_ (?:to|down|before|out|your|his|her|their|our|my|of the (?:ship|boat)|and stern|and curtsy)\b|\b(?:ship's|boat's|they|we|i|you|the) _\b", _BEND),
        (r"_", _KNOT),
    ],
    "minute": [
        (r"\b(?:are|were) _$", "m ay n uw1 t"),
        (r"_ (?:amounts?|details?|quantit(?:y|ies)|particles?|traces?|differences?|fractions?|portions?|changes?|examination|creatures?|crystals?|fragments?|doses?|variations?|size|inspection|cracks?|organisms?|insects?|adjustments?|description|scale)\b", "m ay n uw1 t"),
        (r"\b(?:are|is|was|were) (?:so|very|extremely|too|quite) _\b|\b(?:most|very|extremely|in such|in) _ (?!by\b)\w+", "m ay n uw1 t"),
    ],
    "polish": [
        (rf"\b(?:nail|shoe|furniture|silver|floor|metal|car|boot|wax|of|some|the|and) _ (?:remover|it|them)\b|\b(?:nail|shoe|furniture|silver|floor|metal|boot) _\b|\b{_MODAL} _\b|_ (?:the|it|them|your|his|her|my|our|their|off|up|and wax|remover|these|those)\b|^_ (?:the|it|your|with)\b", "p aa1 l ih sh"),
        (rf"\b(?:speaks?|spoke|spoken|speaking|in|into|from|{_BE}|learn\w*|fluent|half|the|an?|his|her|my|their|our|of|and|german|russian|both|two|many|young|old|some|no) _\b|^_ \w+\b|_ (?:people|language)\b", "p ow1 l ih sh"),
    ],
    "used": [
        (r"\b(?:is|are|was|were|be|been|being|it's|they're|tools?|methods?|techniques?|processes|process|terms?|words?|materials?|software|money|data|energy|systems?|code|instruments?|devices?|equipment|language|commonly|often|widely|sometimes|also|mainly|usually|once|then|being) _ to (?!it\b|this\b|that\b|the\b|being\b|doing\b|having\b|him\b|her\b|them\b|me\b|my\b|your\b|\w+ing\b)", "y uw1 z d"),
        (rf"\b(?:i|you|he|she|it|they|we) _ to (?:the|a)\b|\b{_HAVE} _ to (?!the\b|it\b|this\b|that\b)", "y uw1 z d"),
        (r"_ to\b", "y uw1 s t"),
    ],
    "wind": [
        (rf"\b{_MODAL} {_ADVERB}_ (?!power\b)|^_ (?:the|it|up|your|down)\b|(?<!the )\b_ (?:up|its way|the (?:clock|watch|toy|rope|wire|thread|bandage)|around|through|back and forth)\b", "w ay1 n d"),
        (r"_", "w ih1 n d"),
    ],
    "winds": [
        (r"\b(?:road|path|river|trail|stream|street|highway|it|he|she|that|which|snake|stairway|staircase|valley) _\b|_ (?:its way|up in|through the (?:hills|valley|mountains|forest|woods|city))\b", "w ay1 n d z"),
        (r"_", "w ih1 n d z"),
    ],
    "wound": [
        (r"\b(?:stab|gunshot|bullet|flesh|open|head|knife|deep|mortal|fatal|the|to|a|his|her|its) _ (?!up\b)(?!around\b)|_ (?:healed|bled|care)\b", "w uw1 n d"),
        (r"_ (?:up|around|down|its way|tightly|through|back|round|the (?:clock|watch|rope|string|wire|bandage|toy|thread|yarn))\b|\b(?:tightly|road|path|river|trail|stream) _\b", "w aw1 n d"),
        (r"_", "w uw1 n d"),
    ],
    "tear": [
        (r"_ (?:up|apart|down|off|out|open|it|them|away|through|along|the|your|his|her|into|in (?:the|my|his|her|your|their|a)(?! eyes?\b))\b|\b(?:wear and|muscle|ligament|a small) _\b", "t eh1 r"),
        (rf"\b{_MODAL} {_ADVERB}_\b|\b(?:i|you|we|they) _\b|^_ ", "t eh1 r"),
        (r"_", "t ih1 r"),
    ],
    "tears": [
        (r"\b(?:he|she|it|who|that|dog|wind|storm) _ (?:up|apart|down|off|out|open|it|them|away|through|the|into|his|her)\b|_ (?:apart|it|them|down the (?:wall|house|building))\b", "t eh1 r z"),
        (r"_", "t ih1 r z"),
    ],
    "bass": [
        (r"\b(?:sea|striped|largemouth|smallmouth|black|caught|catch|fish\w*|fry|fried|grilled|lake|eat|ate|baked|pound|cook\w*) (?:(?:an?|for|the|some|\w+) ){0,2}_\b|_ (?:fishing|fisherman|swam|swim\w*|boat|fillets?|in (?:the|this|that) (?:lake|river|pond))\b", "b ae1 s"),
        (r"_", "b ey1 s"),
    ],
    "dove": [
        (r"(?<!a )(?<!the )(?<!white )(?<!turtle )(?<!mourning )\b_ (?:into|in|off|under|for|down|deep|deeper|headfirst|right|back|to|through|behind|from|straight|overboard|again|in)\b|\b(?:diver|swimmer|submarine|plane|eagle|hawk|he|she|they|i|we|then|and) _\b", "d ow1 v"),
        (r"_", "d ah1 v"),
    ],
    "sow": [(r"\b(?:an?|old|pregnant|mother|fat|the|pink|big) _(?! seeds?\b)", "s aw1"), (r"_", "s ow1")],
    "row": [(r"\b(?:blazing|had a (?:terrible|huge|big|furious)|flaming|furious|an almighty) _\b", "r aw1")],
    "object": [(r"\b(?:i|we|they|you|to|not|never|don't|doesn't|didn't|would|will|may|might|could|can't|who) _(?! (?:of|that is)\b)|_ to (?:the|this|that|it|his|her|your|my|being|any|such)\b", "ax b jh eh1 k t"), (r"_", "aa1 b jh eh k t")],
    "objects": [(r"\b(?:he|she|it|who|nobody|anyone|everyone|no one|which) _\b|_ to (?:the|this|that|it|his|her|your|my|being|any|such)\b", "ax b jh eh1 k t s")],
    "content": [
        (rf"\b(?:{_BE}|feel|feels|felt|seem|seems|seemed|looked|looks|quite|perfectly|so|very|not|more than|fully|rest|remained|sat|live) _(?! (?:of|is|on)\b)|_ (?:with|to) (?!the reader\b)", "k ax n t eh1 n t"),
        (r"\b(?:her|his|my|their|your) heart's _\b", "k ax n t eh1 n t"),
        (r"_", "k aa1 n t eh n t"),
    ],
    "refuse": [
        (r"_ (?:to|it|them|him|her|me|us|all|any|such|the|an?|permission|entry|treatment|help)\b", "r ax f y uw1 z"),
        (r"\b(?:the|of|household|kitchen|garden|human|and) _\b|_ (?:collection|bins?|dump|heap|collectors?)\b", "r eh1 f y uw1 s"),
    ],
    "resume": [
        (r"\b(?:an?|my|your|his|her|the|their|our|this|that|impressive|of|updated|send|sent|new) _(?! (?:talks|the|their|its|his|her)\b)|^_ (?:writing|tips|builder)\b", "r eh1 z ax m ey"),
    ],
    "deserts": [(r"\bjust _\b", "d ih z er1 t s")],
    "desert": [(r"\b(?:soldiers|men|troops|friends) _ (?:the|their|his|him|her|me|us|them)\b", "d ih z er1 t")],
    "house": [(r"\b(?:can|could|will|would|must|may|might|should|cannot|can't) _\b", "hh aw1 z"), (rf"\b{_MODAL} {_ADVERB}_ (?:the|them|him|her|us|me|an?|up|over|more|about|these|all|\w+ (?:people|refugees|families|students))\b", "hh aw1 z")],
    "learned": [(r"\b(?:an?|the|my|most|very|your|his|some) _ (?:man|men|woman|women|scholars?|professor|judges?|friends?|colleagues?|societ(?:y|ies)|doctor|people|counsel)\b", "l er1 n ih d")],
    "aged": [(r"\b(?:the|an|my|his|her|their|our|your) _(?! (?:\w+ty|\d|one|two|three|four|five|six|seven|eight|nine|ten|cheese|beef|wine|whiskey)\b)", "ey1 jh ih d")],
    "blessed": [(r"\b(?:the|every|o|this|my) _(?! (?:him|her|them|us|me|it|by)\b)", "b l eh1 s ih d"), (r"_", "b l eh1 s t")],
    "putting": [(r"\b(?:golf|practice) _\b|_ (?:greens?|stroke|contest)\b|\b(?:his|her) _ (?:is|was|improved)\b", "p ah1 t ih ng")],
    "sake": [(r"\b(?:drink\w*|drank|(?:bottles?|cups?|glass|glasses) of|hot|warm|cold|japanese|sushi and|rice|some|serve\w*|sip\w*|order\w*) _\b|_ (?:bar|bottle|cup)\b", "s aa1 k iy")],
    "mobile": [(r"_ alabama\b", "m ow b iy1 l")],
    "moped": [(r"\b(?:he|she|they|i|and|just|only) _\b", "m ow1 p t")],
    "invalid": [(r"\b(?:an|the|elderly|old|bedridden|helpless|his|her) _(?! \w)|\b(?:an|the|elderly|bedridden) _ (?:who|and|for|in)\b", "ih1 n v ax l ih d"), (r"_", "ih n v ae1 l ih d")],
    "delegate": [(rf"\b{_MODAL} {_ADVERB}_\b|_ (?:the|your|tasks?|work|more|it|them|authority|responsibility)\b", "d eh1 l ax g ey t"), (r"_", "d eh1 l ax g ax t")],
    "intimate": [(r"\b(?:to|did|would|not) _ (?:that|the)\b", "ih1 n t ax m ey t"), (r"_", "ih1 n t ax m ax t")],
    "does": [(r"\b(?:two|three|several|the|many|bucks and|stags and) _ (?:grazed|ran|and|in the|were)\b", "d ow1 z")],
    "number": [(r"\b(?:grew|feel|felt|feeling|getting|got|become|became) _ (?:and|with|by)\b", "n ah1 m er")],
    "sewer": [(r"\b(?:a|skilled|good|expert|the best) _ (?:of|who|and)\b", "s ow1 er")],
    "entrance": [(rf"\b{_MODAL} {_ADVERB}_ (?:us|you|me|him|her|them|the|audiences?)\b", "ih n t r ae1 n s")],
    "separate": [(r"\b(?:two|three|in|on|completely|entirely|have|had|has|are|is|were|was|a|keep|kept|sleep|under) _\b", "s eh1 p r ax t")],
    "perfect": [(r"\b(?:the|a|is|was|be|not|almost|nearly|far from|so|just|pretty|looks?|that's|it's|your|this) _\b", "p er1 f ax k t")],
    "present": [(r"\b(?:be|is|was|are|were|the|a|at|always|ever|not|still|those|my|no) _\b|^_ (?:company|day|tense)\b", "p r eh1 z ax n t")],
    "appropriate": [(r"\b(?:not|be|is|are|was|more|most|as|if|when|where|an|the) _\b", "ax p r ow1 p r iy ax t")],
}  # fmt: skip


@cache
def _rules(word: str) -> list[tuple[re.Pattern[str], str]]:
    """The rules of a word, compiled when it first comes: all of them would take as long as loading the lexicon."""
    return [(re.compile(pattern), reading) for pattern, reading in RULES.get(word, ())]


def choose(words: list[str], at: int, readings: list[str]) -> str:
    """The phones of `words[at]`, spaces between.  `readings`: the lexicon's, the verb's own one last where it differs."""
    rules = _rules(words[at]) if words[at] in RULES else []
    if rules:
        context = " ".join([*words[max(0, at - WINDOW) : at], "_", *words[at + 1 : at + 1 + WINDOW]]).lower()
        for pattern, reading in rules:
            if pattern.search(context):
                return reading
    return readings[-1] if len(readings) > 1 and is_verb(words, at) else readings[0]


def is_verb(words: list[str], at: int) -> bool:
    """Whether a word that can be noun and verb is a verb here, judged by its neighbours."""
    at_before = at - 1
    while at_before > 0 and (words[at_before] in ADVERBS or words[at_before].endswith("ly")):
        at_before -= 1  # "to fully record"
    before = words[at_before] if at else ""
    after = words[at + 1] if at + 1 < len(words) else ""
    singular = words[at].endswith("s") and not words[at].endswith("ss")
    if (
        at
        and at_before <= 2
        and after != "of"
        and PLURAL.fullmatch(before)
        and before not in NO_SUBJECTS
        and not singular
    ):
        return True  # "prices increase every year"
    if singular:
        return before in THIRD_PERSON or after in OBJECTS and before not in NOUN_AFTER
    return before in VERB_AFTER or after in OBJECTS and before not in NOUN_AFTER
