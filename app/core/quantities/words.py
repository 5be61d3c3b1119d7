"""The words around numbers: units in the languages of shops, and what tells counts, sizes and offers apart.

Languages: English, Indonesian, German, French, Spanish, Portuguese, Italian, Dutch; the commonest units of Russian,
Vietnamese, Thai, Chinese and Japanese.
"""

from __future__ import annotations

from typing import NamedTuple


def words(text: str) -> frozenset[str]:
    """Returns the words of a text."""
    return frozenset(text.split())


class Unit(NamedTuple):
    """A unit: `amount * factor` is in the unit of the kind."""

    kind: str
    factor: float
    name: str
    rough: bool = False
    container: bool = False  # "1 box" says nothing about what is in it


def _table(
    kind: str, rows: dict[str, tuple[float, str]], *, rough: bool = False, container: bool = False
) -> dict[str, Unit]:
    return {
        word: Unit(kind, factor, name, rough, container) for name, (factor, words) in rows.items() for word in words.split()
    }


OUNCE = Unit("ounce", 1.0, "oz", True)  # of mass or of volume: read as both
FOOT_MARK = Unit("mark", 1.0, "'", True)  # feet, or inches of a sloppy writer: read as both
RATE = Unit("", 1.0, "")  # a speed: known, and left out
TIMES = Unit("times", 1.0, "x")  # "3x", which only its surroundings explain

_PIECES = """
    pcs pc pce pces pieces piece stück stueck stk buah bh biji pieza piezas pezzi pz pièces peças pçs uds ud unidades unidad
    unités unità ct cnt count szt stuks ea item items picis pics pes psc шт miếng viên cái chiếc 片 枚 個 个 本
"""

UNITS: dict[str, Unit] = {
    **_table(
        "mass",
        {
            "g": (
                1,
                "g gr grm gms gm gram grams gramm gramas gramos gramo grama grammi grammes gramme grs gramz г гр 克 グラム",
            ),
            "kg": (
                1000,
                "kg kgs kilo kilos kilogram kilograms kilogramm kilogramo kilogramos kilogrammes chilo кг กก 公斤 千克 キロ",
            ),
            "ons": (100, "ons"),
        },
    ),
    **_table("mass", {"lb": (453.592, "lb lbs pound pounds")}, rough=True),
    **_table("dose", {"mg": (1, "mg miligram milligram mgs"), "mcg": (0.001, "mcg ug μg")}),
    **_table(
        "volume",
        {
            "ml": (1, "ml mls mililiter milliliter milliliters millilitre millilitres mililitros cc мл มล 毫升"),
            "cl": (10, "cl"),
            "l": (1000, "l lt ltr ltrs liter liters litre litres litro litros litri л 升 リットル"),
        },
    ),
    **_table("volume", {"fl oz": (29.5735, "floz"), "gal": (3785.41, "gal gallon gallons")}, rough=True),
    "oz": OUNCE,
    "ounce": OUNCE,
    "ounces": OUNCE,
    **_table(
        "length",
        {
            "mm": (1, "mm milimeter millimeter millimetre мм 毫米"),
            "cm": (10, "cm cms centimeter centimetre centimeters sentimeter см ซม 厘米 センチ"),
            "m": (1000, "m mtr mtrs meter meters metre metres metro metros metri"),
        },
    ),
    **_table(
        "length",
        {
            "inch": (25.4, "inch inches inci inchi inc zoll pouces pouce pulgadas pulgada pollici polegadas"),
            "ft": (304.8, "ft feet foot"),
            "yd": (914.4, "yard yards yd yds"),
        },
        rough=True,
    ),
    **_table("storage", {"GB": (1, "gb gig giga gigabyte"), "TB": (1024, "tb terabyte"), "MB": (1 / 1024, "mb megabyte")}),
    **dict.fromkeys(("mbps", "gbps", "kbps"), RATE),
    **_table("power", {"W": (1, "w watt watts wat"), "kW": (1000, "kw kilowatt")}),
    **_table("voltage", {"V": (1, "v volt volts volte")}),
    **_table("charge", {"mAh": (1, "mah"), "Ah": (1000, "ah")}),
    **_table("frequency", {"GHz": (1000, "ghz"), "MHz": (1, "mhz"), "Hz": (1e-6, "hz")}),
    **_table("rotation", {"rpm": (1, "rpm")}),
    **_table("pixels", {"MP": (1, "mp mpx megapixel megapixels mpix mpixel")}),
    **_table("ply", {"ply": (1, "ply plys lapis lagig lapisan layer layers")}),
    **_table("karat", {"karat": (1, "karat carat kt")}),
    **_table("percent", {"%": (1, "% persen percent")}),
    **_table(
        "age",
        {
            "months": (1, "bulan bln months month monate"),
            "years": (12, "tahun thn years year yrs yr jahre ans años anni anos"),
        },
    ),
    **_table(
        "count",
        {
            "pcs": (
                1,
                _PIECES,
            ),
            "sheets": (1, "lembar lbr sheet sheets lmbr blatt feuilles fogli folhas hojas helai"),
            "sachets": (1, "sachet sachets sct scht saset"),
            "capsules": (1, "kapsul capsule capsules softgel softgels caps kaps kapseln gélules cápsulas capsulas kapsule"),
            "tablets": (1, "tablet tablets tab tabs tabletten comprimés comprimidos compresse kaplet"),
            "bags": (1, "teabag teabags bags beutel"),
            "pairs": (1, "pasang pair pairs psg paar paires pares paia"),
            "eggs": (1, "butir"),
            "sticks": (1, "batang btg"),
            "dozen": (12, "lusin lsn dozen dz docena dutzend douzaine"),
            "kodi": (20, "kodi"),
        },
    ),
    **_table(
        "count",
        {
            "pack": (1, "pack packs pak pk pks packung packungen paket paquete pacchi confezioni"),
            "box": (1, "box boxes dus karton boks cajas"),
            "bottles": (1, "botol bottle bottles flaschen bouteilles botellas bottiglie"),
            "set": (1, "set sets"),
            "rolls": (1, "roll rolls rollen rouleaux rollos rotoli rol cuộn"),
            "pouches": (1, "bungkus bks pouch pouches kaleng cans dosen gói hộp"),
        },
        container=True,
    ),
}

# units of two words, as "fl oz": first word -> second word -> unit
PAIRS: dict[str, dict[str, Unit]] = {
    "fl": {"oz": UNITS["floz"], "ounce": UNITS["floz"], "ounces": UNITS["floz"]},
    "fluid": {"oz": UNITS["floz"], "ounce": UNITS["floz"], "ounces": UNITS["floz"]},
    "mega": {"pixel": UNITS["mp"], "pixels": UNITS["mp"], "piksel": UNITS["mp"]},
    "milli": {"ampere": UNITS["mah"]},
    "er": {"pack": UNITS["pcs"], "set": UNITS["pcs"], "packung": UNITS["pcs"]},
    "soft": dict.fromkeys(("kapsul", "capsule", "capsules", "gel", "gels"), UNITS["kapsul"]),
    "mini": dict.fromkeys(("kapsul", "capsule", "capsules"), UNITS["kapsul"]),
    "tea": {"bags": UNITS["bags"], "bag": UNITS["bags"]},
}

# A single letter after a number is a unit only where nothing makes it a part of a code.
LETTER_UNITS = words("g l m v w г л 克 升 片 枚 個 个 本")
COMPUTING = words(
    "ddr ram ssd hdd sas sata xeon ghz mhz cache intel amd cpu server sdhc sdxc microsd sandisk geforce radeon gtx rtx "
    "pcie nvme dimm sodimm memory proliant usb laptop notebook processor adapter flashdisk gb mb raid scsi"
)
BABIES = words("baby bayi infant newborn toddler setelan babies anak bohobaby")
GOLDEN = words("gold emas or oro ouro goldfarben")
LENSES = words("lens lente lenses objektiv objectif obiettivo nikkor canon usm nikon sigma tamron zoom")
NETWORKS = words(
    "iphone samsung xiaomi redmi oppo vivo realme modem wifi lte sim gsm smartphone handphone hp ipad router mifi phone "
    "galaxy nokia huawei unlocked android phones"
)

LINKS = {
    "x": "x",
    "*": "x",
    "/": "/",
    "+": "+",
    "&": "&",
    "dan": "&",
    "and": "&",
    "und": "&",
    "-": "-",
    "to": "-",
    "a": "-",
    "à": "-",
    "até": "-",
    "sampai": "-",
    "hingga": "-",
    "bis": "-",
    "sd": "-",
}

FILLED = words("isi contents content contains jumlah qty")  # "isi 3"
FILLED_BY = words("of de da di com con von à isi")  # "pack of 6" ...
FILLERS = words(
    "pack packs set sets box lot paquete caja confezione kit paket packung case bundle pacote caixa jeu boîte juego "
    "pak bag carton pacco lote"
)
BARE_COUNTS = {"lusin": 12, "selusin": 12, "lusinan": 12, "kodi": 20, "doppelpack": 2}

SIZED = words("size sz ukuran uk taille talla taglia tamanho größe groesse maat nomor pointure numero")
SYSTEMS = words("eu eur us")
OFFERED = words(
    "beli buy gratis get free bonus min minimal order minimum minimall garansi bergaransi warranty diskon disc discount "
    "disk off sale promo hemat cashback save garantie garantía garanzia hanya"
)
SHIPPED = words("= muat dapat bisa")  # "1 kg = 20 pcs", "1kg muat 4": what fits into a parcel
PRICED = words("rp idr usd eur € $ £")
ZOOMS = words("zoom optical optischer optischem optique óptico ottico digital")

# A word that may touch the number after it without making a code of both: "isi50", "SPF30", "L20cm"
PREFIXES = FILLED | SIZED | SYSTEMS | PRICED | words("spf x per dia diameter f ø no")
