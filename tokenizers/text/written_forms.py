"""Tables for reading written English aloud: what signs, units, abbreviations and capitals stand for."""

import re

QUOTES_AND_DASHES = str.maketrans(
    {c: "'" for c in "\u2018\u2019\u201a\u201b\u2032\u00b4\u02bc\uff07`"}
    | {c: '"' for c in "\u201c\u201d\u201e\u201f\u00ab\u00bb\u2033"}
    | {c: "\u2013" for c in "\u2010\u2011\u2012\u2043"}
    | {
        "\u2014": " \u2014 ",
        "\u2015": " \u2014 ",
        "\u2026": "...",
        "\u00a0": " ",
        "\u200b": "",
        "\u00ad": "",
        "\ufeff": "",
    }
)
UNMARKED_LETTERS = str.maketrans(
    {"ß": "ss", "æ": "ae", "Æ": "Ae", "ø": "o", "Ø": "O", "œ": "oe", "Œ": "Oe", "ł": "l", "Ł": "L", "đ": "d", "Đ": "D"}
    | {"þ": "th", "Þ": "Th", "ð": "d", "Ð": "D", "ı": "i", "ħ": "h", "Ħ": "H", "ŋ": "ng"}
)
FRACTION_SIGNS = {
    "½": "1/2",
    "⅓": "1/3",
    "⅔": "2/3",
    "¼": "1/4",
    "¾": "3/4",
    "⅕": "1/5",
    "⅛": "1/8",
    "⅜": "3/8",
    "⅝": "5/8",
    "⅞": "7/8",
}
SUPERSCRIPTS = "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079\u207a\u207b\u207f"
# Inline tags: `[pause]` is a pause, the others are sounds that nothing here makes yet; they are never read aloud.
TAGS = (
    r"pause laughs? laughing laughter chuckles? giggles? sighs? gasps? coughs? sniffs? sobs? cries crying yawns? groans? "
    r"breath breathes breathing inhales? exhales? whispers? whispering shouts? shouting screams? sings? singing hums? humming "
    r"clears?[\s_-]throat (?:long|short)[\s_-]pause silence beat music applause noise "
    r"angry happy sad excited calm serious sarcastic nervous surprised curious tired softly slowly"
).split()
SYMBOLS = {
    "&": "and", "%": "percent", "‰": "per mille", "+": "plus", "=": "equals", "@": "at", "×": "times", "÷": "divided by",
    "±": "plus or minus", "°": "degrees", "©": "copyright", "§": "section", "<": "less than", ">": "greater than",
    "≤": "at most", "≥": "at least", "≠": "is not", "≈": "about", "→": "to", "√": "square root of", "∞": "infinity", "★": "star",
    "π": "pi", "µ": "micro", "μ": "micro", "$": "dollars", "€": "euros", "£": "pounds", "¥": "yen", "₹": "rupees", "¢": "cents",
    "₩": "won", "₽": "rubles", "₺": "lira", "₪": "shekels", "₱": "pesos", "₦": "naira", "₿": "bitcoin", "₴": "hryvnias",
    "#": "number", "²": "squared", "³": "cubed",
}  # fmt: skip
MONEY = {
    "$": ("dollar", "cent"), "€": ("euro", "cent"), "£": ("pound", "penny"), "¥": ("yen", ""), "₹": ("rupee", "paisa"),
    "USD": ("dollar", "cent"), "EUR": ("euro", "cent"), "GBP": ("pound", "penny"), "¢": ("cent", ""), "CAD": ("dollar", "cent"),
    "AUD": ("dollar", "cent"), "JPY": ("yen", ""), "CNY": ("yuan", ""), "CHF": ("swiss franc", ""), "INR": ("rupee", "paisa"),
    "₩": ("won", ""), "₽": ("ruble", ""), "₺": ("lira", ""), "₪": ("shekel", ""), "₱": ("peso", ""), "₦": ("naira", ""),
    "₿": ("bitcoin", ""), "₴": ("hryvnia", ""),
}  # fmt: skip
CURRENCY_PREFIXES = {
    "US": "U S", "USD": "U S", "C": "canadian", "CA": "canadian", "A": "australian", "AU": "australian",
    "CAD": "canadian", "AUD": "australian", "S": "singapore", "NZ": "new zealand", "HK": "hong kong",
}  # fmt: skip
MONEY_SCALES = {
    "k": "thousand", "K": "thousand", "m": "million", "M": "million", "mn": "million", "b": "billion", "B": "billion",
    "bn": "billion", "T": "trillion", "tn": "trillion",
}  # fmt: skip
UNITS = {
    "km": "kilometer", "m": "meter", "cm": "centimeter", "mm": "millimeter", "nm": "nanometer", "mi": "mile", "ft": "foot",
    "in": "inch", "yd": "yard", "kg": "kilogram", "g": "gram", "mg": "milligram", "lb": "pound", "lbs": "pound", "oz": "ounce",
    "l": "liter", "L": "liter", "ml": "milliliter", "mL": "milliliter", "cl": "centiliter", "s": "second", "sec": "second",
    "ms": "millisecond", "min": "minute", "mins": "minute", "h": "hour", "hr": "hour", "hrs": "hour", "Hz": "hertz",
    "kHz": "kilohertz", "MHz": "megahertz", "GHz": "gigahertz", "W": "watt", "kW": "kilowatt", "MW": "megawatt",
    "kWh": "kilowatt hour", "V": "volt", "mV": "millivolt", "A": "amp", "mA": "milliamp", "dB": "decibel", "B": "byte",
    "kB": "kilobyte", "KB": "kilobyte", "MB": "megabyte", "GB": "gigabyte", "TB": "terabyte", "Kbps": "kilobit per second",
    "kbps": "kilobit per second", "Mbps": "megabit per second", "Gbps": "gigabit per second", "°C": "degree celsius",
    "°F": "degree fahrenheit", "°": "degree", "mph": "mile per hour", "kph": "kilometer per hour", "rpm": "revolution per minute",
    "fps": "frame per second", "px": "pixel", "cal": "calorie",
    "kcal": "kilocalorie", "J": "joule", "N": "newton", "Pa": "pascal", "hPa": "hectopascal", "ha": "hectare",
    "sq ft": "square foot", "sq mi": "square mile", "sq in": "square inch", "sq yd": "square yard", "sq m": "square meter",
    "sq km": "square kilometer", "dL": "deciliter", "dl": "deciliter", "\u00b5m": "micrometer", "\u03bcm": "micrometer",
    "\u00b5g": "microgram", "\u00b5s": "microsecond", "tsp": "teaspoon", "tbsp": "tablespoon", "qt": "quart", "pt": "pint",
    "gal": "gallon", "mpg": "mile per gallon", "dpi": "dot per inch", "mbar": "millibar", "kPa": "kilopascal", "kV": "kilovolt",
    "GW": "gigawatt", "TWh": "terawatt hour", "MWh": "megawatt hour", "Wh": "watt hour", "mAh": "milliamp hour", "PB": "petabyte",
    "THz": "terahertz", "ns": "nanosecond", "bps": "bit per second", "bpm": "beat per minute", "ppm": "part per million",
    "kJ": "kilojoule", "MJ": "megajoule", "kn": "knot", "MP": "megapixel", "fl oz": "fluid ounce", "yr": "year", "yrs": "year",
    "wk": "week", "mo": "month", "\u03a9": "ohm", "k\u03a9": "kilohm", "M\u03a9": "megohm",
}  # fmt: skip
# Units that are written with a point as well: "6 ft. wide".
WITH_POINT = frozenset("ft in lb lbs oz hr hrs min mins sec yd mi tsp tbsp qt pt gal yr yrs wk mo".split())
WITH_POINT |= {"sq ft", "sq mi", "sq in", "sq yd", "fl oz"}
SPACED_UNITS = frozenset(("A", "B", "J", "N", "mo", "pt"))  # units only after a space: "row 5A", "a 7B model"
PER_WORDS = {
    "hr": "hour", "h": "hour", "lb": "pound", "lbs": "pound", "mo": "month", "yr": "year", "wk": "week", "day": "day",
    "gal": "gallon",
}  # fmt: skip
# What is counted after "3B" or "10k", rather than measured.
COUNTED = (
    "people|users|views|viewers|followers|subscribers|downloads|votes|voters|jobs|homes|customers|players|copies|tons|tonnes|"
    "barrels|workers|children|members|streams|visitors|tourists|acres|doses|cases|parameters|params|tokens|songs|books|words|"
    "years|hours|women|men|students|deaths|refugees|dollars|euros|pounds|readers|fans|likes|steps|records|rows|samples|residents"
)
# After these an amount is an adjective even without an article: "16 oz. bottle", "60W bulb".
MEASURED_THINGS = frozenset(
    "dash sprint relay freestyle butterfly hurdles bag bags bottle bottles bulb bulbs can cans box boxes jar jars steak steaks battery batteries motor engine run race walk hike radius "
    "screen screens monitor monitors cable cables charger adapter wall fence ladder board boards pipe pipes rope tank tanks pizza pack "
    "timer warranty loan limit zone diameter outlet laptop phone drive drives memory dress waist lens speaker speakers".split()
)
# Words that do not make the amount before them an adjective: "the $5 he owes", against "the $5 bill".
NO_NOUN = frozenset(
    "of in per and or to for from at by on with is was are were be been has have had will would can could may might must that which "
    "who he she it we you they i than as but if so not away ago later more less off apart each above below under over after before "
    "down up about into out a an the this these those his her its our your their since until when while because then there here now "
    "today yesterday only just also too either back every".split()
)
ABBREVIATIONS = {
    "Mr": "mister", "Mrs": "missus", "Ms": "miz", "Dr": "doctor", "Prof": "professor", "Jr": "junior", "Sr": "senior",
    "St": "saint", "Mt": "mount", "Ft": "fort", "Gen": "general", "Col": "colonel", "Sgt": "sergeant", "Capt": "captain",
    "Lt": "lieutenant", "Cmdr": "commander", "Rev": "reverend", "Hon": "honorable", "Gov": "governor", "Sen": "senator",
    "Rep": "representative", "Pres": "president", "Ave": "avenue", "Blvd": "boulevard", "Rd": "road", "Inc": "incorporated",
    "Ltd": "limited", "Co": "company", "Corp": "corporation", "Bros": "brothers", "Dept": "department", "Univ": "university",
    "vs": "versus", "etc": "etcetera", "approx": "approximately", "est": "estimated", "dept": "department", "incl": "including",
    "misc": "miscellaneous", "tel": "telephone", "Tel": "telephone", "Maj": "major", "Adm": "admiral", "Cpl": "corporal",
    "Pvt": "private", "Esq": "esquire", "Assn": "association", "Bldg": "building", "Ste": "suite", "Hwy": "highway", "Ln": "lane",
    "Intl": "international", "Natl": "national", "Govt": "government", "govt": "government", "mgmt": "management",
    "max": "maximum", "min": "minimum", "avg": "average", "Amb": "ambassador", "Supt": "superintendent", "Msgr": "monsignor",
    "Sec": "secretary", "Approx": "approximately", "Est": "established", "Avg": "average", "Incl": "including", "Fr": "father", "Mtn": "mountain", "Pkwy": "parkway",
    "Jan": "january", "Feb": "february", "Mar": "march", "Apr": "april", "Jun": "june", "Jul": "july", "Aug": "august",
    "Sep": "september", "Sept": "september", "Oct": "october", "Nov": "november", "Dec": "december",
    "Mon": "monday", "Tue": "tuesday", "Tues": "tuesday", "Wed": "wednesday", "Thu": "thursday", "Thurs": "thursday",
    "Fri": "friday", "Sat": "saturday", "Sun": "sunday",
}  # fmt: skip
ALWAYS_ABBREVIATED = {"Mr", "Mrs", "Ms", "Dr", "Prof", "Jr", "Sr", "vs", "etc", "Ltd", "Blvd"}  # also without a point
TRAILING = frozenset(  # these may end a sentence, titles may not
    "Jr Sr Inc Ltd Co Corp Ave Blvd Rd etc Bros Jan Feb Mar Apr Jun Jul Aug Sep Sept Oct Nov Dec Mon Tue Tues Wed Thu Thurs Fri Sat "
    "Sun Esq Assn Hwy Ln Bldg misc Dept dept Univ Pkwy Mtn".split()
)
# Ordinary words unless something follows.
NEEDS_MORE = frozenset("Sec Est Mon Sun Sat Mar Fri Co Rep est Hon Gen Fr max min Amb Ste Maj misc".split())
BEFORE_NUMBERS = {  # "No. 5", "Fig. 2", "Vol. IV"
    "[Nn]o": "number", "[Nn]os": "numbers", "[Ff]ig": "figure", "[Ff]igs": "figures", "[Ee]q": "equation", "[Ee]qs": "equations",
    "[Vv]ol": "volume", "[Vv]ols": "volumes", "[Cc]h": "chapter", "[Ss]ec": "section", "[Aa]rt": "article", "[Aa]pt": "apartment",
    "pp": "pages", "p": "page", "pg": "page", "pgs": "pages", "[Ee]xt": "extension", "[Rr]ef": "reference", "[Ee]d": "edition", "[Rr]m": "room",
}  # fmt: skip
_PHRASES = {
    r"WW(?:I|1)": "world war one",
    r"WW(?:II|2)": "world war two",
    r"Ctrl": "control",
    r"[Nn]o\.(?= of)": "number",
    r"B\.?Sc\.?": "B S C",
    r"M\.?Sc\.?": "M S C",
    r"iPhone X": "iphone ten",
    r"(?:Mac )?OS X": "mac O S ten",
    r"e\.\s?g\.?,?": "for example",
    r"i\.\s?e\.?,?": "that is",
    r"et al\.": "et al",
    r"a\.\s?k\.\s?a\.|a/k/a": "A K A",
    r"w/o": "without",
    r"b/c": "because",
    r"c/o": "care of",
    r"[nN]/[aA]": "N A",
    r"[Aa]/[Cc]": "A C",
    r"M&Ms?": "M and M's",
    r"24/7": "twenty four seven",
    r"'n'": "and",
    r"Ph\.\s?D\.(?=\s+[a-z]|[,;'])": "P H D",
    r"Ph\.?\s?D": "P H D",
}
PHRASES = {re.compile(rf"(?<!\w)(?:{pattern})(?!\w)"): spoken for pattern, spoken in _PHRASES.items()}
MONTHS = "January February March April May June July August September October November December".split()
MONTH = "(?P<month>" + "|".join(f"{m}|{m[:3]}\\.?" for m in MONTHS) + r"|Sept\.?)"
WEEKDAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
AFTER_ROMAN = (
    "Chapter|Part|Act|Scene|Book|Volume|Section|Article|Appendix|Type|Phase|War|Title|Level|Stage|Class|Figure|Table|Episode|"
    "Super Bowl|Grade|Category|Tier|Mark|Schedule|Season"
)
KINGS = (
    "King|Queen|Pope|Henry|Louis|George|Edward|Charles|James|William|Richard|Elizabeth|Philip|Frederick|John Paul|Benedict|Pius|"
    "Napoleon|Nicholas|Alexander|Peter|Catherine|Ramses|Leo|Gregory|Mary|Margaret|Ivan|Otto|Innocent|Clement|Urban|Ferdinand|"
    "Francis|Haakon|Gustav|Carl|Tsar|Emperor|Prince|Wilhelm|Ludwig|Thutmose|Amenhotep|Edgar|Robert"
)
GIVEN_NAMES = frozenset(
    "Will Bob Tom Jim Joe Bill Sam John James William Robert Michael David Richard Joseph Thomas Charles Henry George Edward Frank Walter Arthur Albert Harold Paul "
    "Peter Daniel Samuel Benjamin Alexander Anthony Andrew Christopher Matthew Mark Steven Kenneth Kevin Brian Ronald Donald Timothy "
    "Jeffrey Gary Scott Eric Stephen Larry Raymond Jack Dennis Jerry Tyler Aaron Adam Nathan Thurston Martin Philip Patrick Howard".split()
)
STREETS = {
    "St": "street",
    "Dr": "drive",
    "Ave": "avenue",
    "Rd": "road",
    "Blvd": "boulevard",
    "Ln": "lane",
    "Ct": "court",
    "Hwy": "highway",
}
STREET_WORDS = (
    "Street|St|Avenue|Ave|Road|Rd|Boulevard|Blvd|Drive|Dr|Lane|Ln|Court|Ct|Place|Way|Square|Terrace|Parkway|Highway|Hwy"
)
STATES = {
    "AL": "alabama", "AK": "alaska", "AZ": "arizona", "AR": "arkansas", "CA": "california", "CO": "colorado", "CT": "connecticut",
    "DE": "delaware", "FL": "florida", "GA": "georgia", "HI": "hawaii", "ID": "idaho", "IL": "illinois", "IN": "indiana", "IA": "iowa",
    "KS": "kansas", "KY": "kentucky", "LA": "louisiana", "ME": "maine", "MD": "maryland", "MA": "massachusetts", "MI": "michigan",
    "MN": "minnesota", "MS": "mississippi", "MO": "missouri", "MT": "montana", "NE": "nebraska", "NV": "nevada", "NH": "new hampshire",
    "NJ": "new jersey", "NM": "new mexico", "NY": "new york", "NC": "north carolina", "ND": "north dakota", "OH": "ohio", "OK": "oklahoma",
    "OR": "oregon", "PA": "pennsylvania", "RI": "rhode island", "SC": "south carolina", "SD": "south dakota", "TN": "tennessee",
    "TX": "texas", "UT": "utah", "VT": "vermont", "VA": "virginia", "WA": "washington", "WV": "west virginia", "WI": "wisconsin",
    "WY": "wyoming", "DC": "D C",
}  # fmt: skip
STATES_THAT_ARE_WORDS = frozenset("HI ID IN LA MA ME OH OK OR PA AL DE MS MD CO DC".split())
# Three or four digits after these are read in twos: "room two thirty seven".
READ_IN_PAIRS = (
    "[Rr]oom|[Ff]light|[Hh]ighway|[Rr]oute|[Ii]nterstate|[Ss]uite|[Aa]partment|Boeing|Airbus|[Cc]hannel|[Bb]us|Xbox|Section|Porsche|"
    "Peugeot|[Gg]ate|[Ll]ocker|[Cc]abin"
)
FILE_ENDINGS = {
    "txt": "T X T", "pdf": "P D F", "md": "M D", "py": "P Y", "js": "J S", "ts": "T S", "json": "json", "csv": "C S V", "tsv": "T S V",
    "exe": "exe", "html": "H T M L", "htm": "H T M", "css": "C S S", "xml": "X M L", "jpg": "J P G", "jpeg": "jpeg", "png": "P N G",
    "gif": "gif", "svg": "S V G", "zip": "zip", "mp3": "M P three", "mp4": "M P four", "wav": "wav", "flac": "flac", "doc": "doc",
    "docx": "doc X", "xls": "X L S", "xlsx": "X L S X", "ppt": "P P T", "yaml": "yaml", "yml": "Y M L", "toml": "toml",
    "cpp": "C P P", "rs": "R S",
}  # fmt: skip
NAME_PREFIXES = ("Mc", "Mac", "De", "Di", "Du", "La", "Le", "Van", "Fitz")
OPENERS = "The|It|He|She|We|They|I|This|That|These|Those|There|In|On|At|But|And|So|If|When|What|Why|How|My|You|Your|Then|Now|As|For|No|Yes|Not"
