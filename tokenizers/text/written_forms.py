"""Tables for reading written English aloud: what signs, units, abbreviations and capitals stand for."""

QUOTES_AND_DASHES = str.maketrans(
    {c: "'" for c in "\u2018\u2019\u201a\u201b\u2032\u00b4\u02bc\uff07`"}
    | {c: '"' for c in "\u201c\u201d\u201e\u201f\u00ab\u00bb\u2033"}
    | {c: "\u2013" for c in "\u2010\u2011\u2012\u2212\u2043"}
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
SYMBOLS = {
    "&": "and", "%": "percent", "‰": "per mille", "+": "plus", "=": "equals", "@": "at", "×": "times", "÷": "divided by",
    "±": "plus or minus", "°": "degrees", "©": "copyright", "§": "section", "<": "less than", ">": "greater than",
    "≤": "at most", "≥": "at least", "≠": "is not", "≈": "about", "→": "to", "√": "square root of", "∞": "infinity",
    "π": "pi", "µ": "micro", "μ": "micro", "$": "dollars", "€": "euros", "£": "pounds", "¥": "yen", "₹": "rupees", "¢": "cents",
    "#": "number", "²": "squared", "³": "cubed",
}  # fmt: skip
MONEY = {
    "$": ("dollar", "cent"), "€": ("euro", "cent"), "£": ("pound", "penny"), "¥": ("yen", ""), "₹": ("rupee", "paisa"),
    "USD": ("dollar", "cent"), "EUR": ("euro", "cent"), "GBP": ("pound", "penny"), "¢": ("cent", ""),
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
    "fps": "frame per second", "km/h": "kilometer per hour", "m/s": "meter per second", "px": "pixel", "cal": "calorie",
    "kcal": "kilocalorie", "J": "joule", "N": "newton", "Pa": "pascal", "hPa": "hectopascal", "ha": "hectare",
    "m²": "square meter", "km²": "square kilometer", "m³": "cubic meter", "sq ft": "square foot",
}  # fmt: skip
ABBREVIATIONS = {
    "Mr": "mister", "Mrs": "missus", "Ms": "miz", "Dr": "doctor", "Prof": "professor", "Jr": "junior", "Sr": "senior",
    "St": "saint", "Mt": "mount", "Ft": "fort", "Gen": "general", "Col": "colonel", "Sgt": "sergeant", "Capt": "captain",
    "Lt": "lieutenant", "Cmdr": "commander", "Rev": "reverend", "Hon": "honorable", "Gov": "governor", "Sen": "senator",
    "Rep": "representative", "Pres": "president", "Ave": "avenue", "Blvd": "boulevard", "Rd": "road", "Inc": "incorporated",
    "Ltd": "limited", "Co": "company", "Corp": "corporation", "Bros": "brothers", "Dept": "department", "Univ": "university",
    "vs": "versus", "etc": "etcetera", "approx": "approximately", "est": "estimated", "fig": "figure", "vol": "volume",
    "ch": "chapter", "pp": "pages", "dept": "department", "incl": "including", "misc": "miscellaneous", "tel": "telephone",
    "Jan": "january", "Feb": "february", "Mar": "march", "Apr": "april", "Jun": "june", "Jul": "july", "Aug": "august",
    "Sep": "september", "Sept": "september", "Oct": "october", "Nov": "november", "Dec": "december",
    "Mon": "monday", "Tue": "tuesday", "Tues": "tuesday", "Wed": "wednesday", "Thu": "thursday", "Thurs": "thursday",
    "Fri": "friday", "Sat": "saturday", "Sun": "sunday",
}  # fmt: skip
ALWAYS_ABBREVIATED = {"Mr", "Mrs", "Ms", "Dr", "Prof", "Jr", "Sr", "vs", "etc", "Ltd", "Blvd"}  # also without a point
PHRASES = {
    r"e\.\s?g\.?,?": "for example",
    r"i\.\s?e\.?,?": "that is",
    r"et al\.": "et al",
    r"w/o": "without",
    r"24/7": "twenty four seven",
    r"Ph\.\s?D\.(?=\s+[a-z])": "P H D",
    r"Ph\.?\s?D": "P H D",
}
MONTHS = "January February March April May June July August September October November December".split()
MONTH = "(?P<month>" + "|".join(f"{m}|{m[:3]}\\.?" for m in MONTHS) + r"|Sept\.?)"
PRONOUNCED_ACRONYMS = {
    "NASA",
    "NATO",
    "UNESCO",
    "UNICEF",
    "OPEC",
    "AIDS",
    "RAM",
    "SIM",
    "PIN",
    "LASER",
    "RADAR",
    "COVID",
    "OK",
    "JPEG",
    "SCUBA",
    "NAFTA",
}
SPELLED = {
    "US",
    "IT",
    "WHO",
    "AM",
    "PM",
    "TV",
    "UN",
    "EU",
    "UK",
    "LA",
    "AI",
    "IQ",
    "ID",
    "IRS",
    "CEO",
    "ACT",
    "SAT",
    "AGO",
    "CAT",
    "PC",
    "CD",
    "DVD",
    "PHD",
    "MIT",
    "GPS",
    "USA",
    "FAQ",
    "IP",
    "OS",
}
ROMAN = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100}
AFTER_ROMAN = (
    "Chapter|Part|Act|Scene|Book|Volume|Section|Article|Appendix|Type|Phase|War|Title|Level|Stage|Class|Figure|Table"
)
KINGS = "King|Queen|Pope|Henry|Louis|George|Edward|Charles|James|William|Richard|Elizabeth|Philip|Frederick|John Paul|Benedict|Pius|Napoleon|Nicholas|Alexander|Peter|Catherine|Ramses|Leo|Gregory"
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
NAME_PREFIXES = ("Mc", "Mac", "De", "Di", "Du", "La", "Le", "Van", "Fitz")
OPENERS = "The|It|He|She|We|They|I|This|That|These|Those|There|In|On|At|But|And|So|If|When|What|Why|How|My|You|Your|Then|Now|As|For|No|Yes|Not"
