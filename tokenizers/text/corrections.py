"""Pronunciations that the lexicon lacks or has wrong: names, loan words, the vocabulary of computing.

They are looked up before the lexicon.  Flite, from which the lexicon comes, spells words with rare clusters of letters
("thousandth", "Tchaikovsky") by their letters, and reads foreign names by English rules.
"""

_TABLE = """
conduct: k aa1 n d ax k t\tk ax n d ah1 k t
thousandth: th aw1 z ax n th; thousandths: th aw1 z ax n th s; twelfths: t w eh1 l f th s; wouldst: w uh1 d s t
tchaikovsky: ch ay k ao1 f s k iy; nvidia: eh n v ih1 d iy ax; siobhan: sh ih v ao1 n; goethe: g er1 t ax
beyonce: b iy aa1 n s ey; schadenfreude: sh aa1 d ax n f r oy d ax; github: g ih1 t hh ah b; gitlab: g ih1 t l ae b
nietzsche: n iy1 ch ax; kierkegaard: k ih1 r k ax g aa r d; dostoevsky: d ao s t ax y eh1 f s k iy; dvorak: d v ao1 r zh ae k
debussy: d ey b y uw s iy1; brzezinski: b r ax z ih1 n s k iy; herzl: hh er1 t s ax l; mcknight: m ax k n ay1 t
voronezh: v ax r ow1 n ih sh; dnieper: n iy1 p er; dniester: n iy1 s t er; dmitry: d m iy1 t r iy
chandigarh: ch ah1 n d iy g aa r; mbabane: m b aa b aa1 n ey; ndjamena: n jh aa m ey1 n ax; nkrumah: n k r uw1 m ax
tswana: t s w aa1 n ax; tlingit: t l ih1 ng k ih t; romansh: r ow m ae1 n sh; kshatriya: k sh aa1 t r iy ax; brno: b er1 n ow
burj: b er1 zh; hajj: hh ae1 jh; ankh: ae1 ng k; ankhs: ae1 ng k s; agardh: ae1 g aa r d; ctesiphon: t eh1 s ih f aa n
cthulhu: k ax th uw1 l uw; houyhnhnm: w ih1 n ax m; schtick: sh t ih1 k; shtik: sh t ih1 k; schticks: sh t ih1 k s
shmooze: sh m uw1 z; shmoozing: sh m uw1 z ih ng; tzarina: z aa r iy1 n ax; tzarinas: z aa r iy1 n ax z; tzars: z aa1 r z
conchs: k aa1 n ch ax z; scotchs: s k aa1 ch ax z; pshaw: p sh ao1; pshaws: p sh ao1 z; veldts: v eh1 l t s; mkay: m k ey1
mohrenschildts: m ao1 r ax n sh ih l t s; anouilh: ax n w iy1; zsigmondy: zh ih1 g m ax n d iy; rwandas: r uw aa1 n d ax z
mwanza: m w aa1 n z ax; tlaloc: t l aa1 l ow k; dschubba: jh uw1 b ax; pwned: p ow1 n d; pwn: p ow1 n; flickr: f l ih1 k er
airbnb: eh1 r b iy ax n b iy; jquery: jh ey1 k w ih r iy; mariadb: m ax r iy1 ax d iy b iy1; mongodb: m aa1 ng g ow d iy b iy1
dynamodb: d ay1 n ax m ow d iy b iy1; jpeg: jh ey1 p eh g; scsi: s k ah1 z iy; regexp: r eh1 g eh k s p
regexps: r eh1 g eh k s p s; regex: r eh1 g eh k s; virtualenv: v er1 ch uw ax l eh n v; stdio: s t iy1 d iy ow
interj: ih n t er jh eh1 k sh ax n; conj: k aa1 n jh; niamh: n iy1 v; saoirse: s er1 sh ax; aoife: iy1 f ax; caoimhe: k iy1 v ax
hermione: hh er m ay1 ax n iy; joaquin: w aa k iy1 n; nguyen: w ih1 n; zhang: jh aa1 ng; xi: sh iy1; jinping: jh ih1 n p ih ng
zelensky: z ax l eh1 n s k iy; zelenskyy: z ax l eh1 n s k iy; kyiv: k iy1 v; huawei: w aa1 w ey; xiaomi: sh aw m iy1
hyundai: hh ah1 n d ey; versace: v er s aa1 ch iy; givenchy: zh iy v aa n sh iy1; vuitton: v w iy t aa1 n; ikea: ay k iy1 ax
peugeot: p uw zh ow1; citroen: s ih1 t r ow eh n; lamborghini: l ae m b er g iy1 n iy; volkswagen: v ow1 k s w aa g ax n
lafayette: l aa f iy eh1 t; linux: l ih1 n ax k s; ubuntu: uh b uh1 n t uw; postgresql: p ow1 s t g r eh s k y uw eh1 l
postgres: p ow1 s t g r eh s; kubernetes: k uw b er n eh1 t iy z; nginx: eh1 n jh ih n eh1 k s; pytorch: p ay1 t ao r ch
tensorflow: t eh1 n s er f l ow; openai: ow1 p ax n ey ay1; chatgpt: ch ae1 t jh iy p iy t iy1; ipad: ay1 p ae d; ebay: iy1 b ey
paypal: p ey1 p ae l; bitcoin: b ih1 t k oy n; vegan: v iy1 g ax n; vegans: v iy1 g ax n z; tiktok: t ih1 k t aa k
numpy: n ah1 m p ay; spotify: s p aa1 t ih f ay; sqlite: eh s k y uw eh1 l ay t; linkedin: l ih ng k t ih1 n
whatsapp: w ah1 t s ae p; elon: iy1 l aa n; llama: l aa1 m ax; bezos: b ey1 z ow s; netanyahu: n eh t ax n y aa1 hh uw
buttigieg: b uw1 t ih jh eh jh; erdogan: eh1 r d ow aa n; modi: m ow1 d iy; macron: m aa k r ow1 n; merkel: m eh1 r k ax l
scholz: sh ow1 l t s; kamala: k aa1 m ax l ax; pelosi: p ax l ow1 s iy; quinoa: k iy1 n w aa; acai: aa s aa iy1
gnocchi: n y ow1 k iy; bruschetta: b r uw s k eh1 t ax; croissant: k r ax s aa1 n t; croissants: k r ax s aa1 n t s
charcuterie: sh aa r k uw1 t er iy; pho: f ah1; prosciutto: p r ow sh uw1 t ow
paella: p aa ey1 y ax; jalapeno: hh aa l ax p ey1 n y ow; jalapenos: hh aa l ax p ey1 n y ow z; tortilla: t ao r t iy1 y ax
tortillas: t ao r t iy1 y ax z; quesadilla: k ey s ax d iy1 y ax; quesadillas: k ey s ax d iy1 y ax z
guacamole: g w aa k ax m ow1 l iy; worcestershire: w uh1 s t er sh er; rendezvous: r aa1 n d ey v uw; faux: f ow1; vu: v uw1
deja: d ey1 zh aa; ennui: aa n w iy1; fiancee: f iy aa n s ey1; fiance: f iy aa n s ey1; doppelganger: d aa1 p ax l g ae ng er
segue: s eh1 g w ey; victuals: v ih1 t ax l z; anemone: ax n eh1 m ax n iy; gaol: jh ey1 l; versailles: v er s ay1
elysees: ey l iy z ey1; moines: m oy1 n; caravaggio: k ae r ax v aa1 jh iy ow; degas: d ey g aa1; cezanne: s ey z aa1 n
matisse: m aa t iy1 s; mnemonic: n ih m aa1 n ih k; onomatopoeia: aa n ax m aa t ax p iy1 ax
supercalifragilisticexpialidocious: s uw p er k ae l ax f r ae jh ax l ih s t ih k eh k s p iy ae l ax d ow1 sh ax s
gigabyte: g ih1 g ax b ay t; hors: ao1 r; oeuvre: er1 v; oeuvres: er1 v z; kpop: k ey1 p aa p; aha: aa hh aa1
hahaha: hh aa1 hh aa hh aa; gouda: g uw1 d ax; fjord: f y ao1 r d; llano: l ae1 n ow; tahoe: t aa1 hh ow
"""

CORRECTIONS: dict[str, str] = {
    word.strip(): phones.strip()
    for entry in _TABLE.replace("\n", ";").split(";")
    if entry.strip()
    for word, phones in [entry.split(":")]
}
