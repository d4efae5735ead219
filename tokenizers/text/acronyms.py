"""Tables of words in capitals: acronyms read as words, acronyms read by letters; and of sounds written as words."""

PRONOUNCED_ACRONYMS = frozenset(
    "NASA NATO UNESCO UNICEF OPEC AIDS RAM ROM SIM PIN LASER RADAR COVID OK JPEG SCUBA NAFTA FEMA OSHA SWAT NASDAQ FIFA UEFA NASCAR "
    "SARS MERS GIF YOLO FOMO CRISPR DARPA BIOS RAID LAN WAN SONAR HIPAA POTUS SCOTUS FLOTUS NORAD ASEAN ZIP TASER PETA MENSA IKEA "
    "LEGO GAAP DRAM UNIX LINUX JSON YAML ASCII EBITDA INTERPOL CAPTCHA OLED MIDI BASIC COBOL FORTRAN PASCAL NIMBY README TODO AWOL "
    "CAD ERISA TOEFL GATT AMBER NAND WIMP EPCOT".split()
)
# Letters by their names, even where all words stand in capitals: these are no words, or not the words that are meant.
SPELLED_ALWAYS = frozenset(
    "CIA FBI NSA IRS USA UAE USSR NBA NFL NHL MLB NCAA CNN BBC ABC CBS NBC HBO ESPN MTV PBS NPR IBM BMW CEO CFO CTO COO HR API GPU CPU "
    "TPU USB HTML CSS HTTP HTTPS URL PDF SQL XML DNA RNA HIV MRI ECG EKG ICU DIY FAQ ATM GPS LED LCD DVD CD TV PC VIP PHD MBA LLC LLP "
    "IPO GDP CPI NAACP ACLU NYPD LAPD DEA ATF DOJ DHS EPA FDA CDC WTO IMF NYC UCLA USC MIT NYU GPA SUV MPG RPM BTU EU UK UFO LLM AI "
    "ESA NIH NSF SEC FCC FTC FAA TSA NRA GOP DNC RNC PTSD ADHD IVF BLT DJ MC EMT CPR RSVP FYI BTW LOL OMG TBA TBD AKA ETA SOS PTA YMCA "
    "UPS AOL KFC BBQ MSNBC CSI DMV SSN IQ ID IP OS UI UX VPN DNS SSD HDMI RGB PNG SVG MP VC PE NGO WWF UN LA GM GE HP ISBN ISSN IVR EIN EBT EPS ETF".split()
)
SPELLED_UNLESS_SHOUTED = frozenset(
    "US IT WHO AM PM ACT SAT AGO CAT ER DC ME OR IN PA MA ICE ART HER IRA ARM PAC MAC".split()
)
# Sounds that are written as words; letters that are written three times or more count as two ("shhhh").
INTERJECTIONS = {
    "hmm": "hh m", "hm": "hh m", "mm": "m", "mhm": "m hh m", "shh": "sh", "psst": "p s t", "pst": "p s t", "brr": "b er1",
    "grr": "g er1", "pfft": "p f t", "pff": "p f", "tsk": "t ih1 s k", "zzz": "z", "zz": "z", "phew": "f y uw1", "whew": "hh w y uw1",
    "ugh": "ah1 g", "argh": "aa1 r g", "aargh": "aa1 r g", "eww": "iy1 uw", "ew": "iy1 uw", "aww": "ao1", "aw": "ao1", "ahh": "aa1",
    "ah": "aa1", "aah": "aa1", "ooh": "uw1", "ohh": "ow1", "huh": "hh ah1", "uhh": "ah1", "umm": "ah1 m", "nah": "n ae1",
    "meh": "m eh1", "yay": "y ey1", "whoa": "w ow1", "yikes": "y ay1 k s", "oops": "uw1 p s", "vroom": "v r uw1 m", "yep": "y eh1 p",
    "yup": "y ah1 p", "duh": "d ah1", "haha": "hh aa1 hh aa1", "achoo": "ax ch uw1", "ahem": "ax hh eh1 m",
}  # fmt: skip
