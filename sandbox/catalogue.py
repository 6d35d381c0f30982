"""What the shop sells and what its people are called: plain data, all invented.

Every address is under a domain reserved for documentation (RFC 2606), so nothing that leaves this
sandbox by mistake can reach a person. Only the marketplace relay domains are real names, because
the product has to recognise them.
"""

from __future__ import annotations

_FIRST = (
    "Anna Ben Clara David Elif Felix Greta Hannes Ida Jonas Katharina Lukas Marie Niklas Olga "
    "Paul Renate Sebastian Tanja Uwe Vera Wolfgang Yasemin Zoe Andreas Birgit Christian Dagmar "
    "Erik Franziska Georg Heike Ines Jan Karin Lars Monika Norbert Petra Ralf Sabine Thomas "
    "Ursula Volker Wiebke Alexander Bianca Carsten Doris Emil Frieda Gustav Helga Ilse Julia "
    "Kevin Lena Max Nora Oliver Pia Robert Silke Theo Ulrike Viktor Wanda Mehmet Ayse Jürgen "
    "Günther Käthe"
)

_LAST = (
    "Müller Schmidt Schneider Fischer Weber Meyer Wagner Becker Schulz Hoffmann Koch Bauer "
    "Richter Klein Wolf Schröder Neumann Schwarz Zimmermann Braun Krüger Hofmann Hartmann Lange "
    "Schmitt Werner Krause Meier Lehmann Schmid Schulze Maier Köhler Herrmann König Walter "
    "Mayer Huber Kaiser Fuchs Peters Lang Scholz Möller Weiß Jung Hahn Schubert Vogel Friedrich "
    "Keller Günther Frank Berger Winkler Roth Beck Lorenz Baumann Franke Albrecht Schuster "
    "Simon Ludwig Böhm Winter Kraus Martin Schumacher Krämer Vogt Stein Jäger Otto Sommer Groß "
    "Seidel Heinrich Brandt Haas Schreiber Graf Dietrich Ziegler Kuhn Kühn Pohl Engel Horn "
    "Busch Bergmann Thomas Voigt Sauer Arnold Wolff Pfeiffer Yilmaz Kaya Nowak Kowalski Smith "
    "Jones Taylor Brown Wilson"
)

FIRST_NAMES = _FIRST.split()
LAST_NAMES = _LAST.split()

MAIL_DOMAINS = (
    "example.com",
    "example.org",
    "example.net",
    "mail.example.com",
    "post.example.org",
    "web.example.net",
)
WORK_DOMAINS = ("work.example.com", "office.example.org", "firma.example.net")
# The shop stores the ASCII form (WordPress refuses others), the CRM the one people typed.
INTERNATIONAL_DOMAIN = ("bücher.example.net", "xn--bcher-kva.example.net")
RELAY_DOMAINS = ("marketplace.amazon.de", "members.ebay.com")

# Country, dialling prefix, share of people, language.
COUNTRIES = (
    ("DE", "+49", 0.74, "de"),
    ("AT", "+43", 0.09, "de"),
    ("CH", "+41", 0.05, "de"),
    ("NL", "+31", 0.03, "en"),
    ("GB", "+44", 0.04, "en"),
    ("US", "+1", 0.05, "en"),
)

# Category, value added tax in percent, price range in EUR, product names.
CATEGORIES = (
    (
        "Coffee",
        7,
        (6, 24),
        "Espresso Roma|Filter Guji|Decaf Lima|House Blend|Crema Nord|Single Origin",
    ),
    (
        "Tea",
        7,
        (4, 18),
        "Assam Second Flush|Darjeeling First Flush|Earl Grey|Rooibos|Sencha|Fennel",
    ),
    ("Brewing", 19, (12, 140), "Hand Filter|French Press|Moka Pot|Scale|Kettle|Paper Filters|Mill"),
    ("Cups", 19, (6, 45), "Espresso Cup|Mug Blue|Mug Grey|Travel Cup|Glass Set|Saucer"),
    ("Sweets", 7, (3, 22), "Cantuccini|Dark Chocolate 70 %|Nougat|Shortbread|Gingerbread|Honey"),
    ("Machines", 19, (180, 980), "Portafilter Uno|Portafilter Duo|Grinder Silent|Milk Frother Pro"),
    ("Care", 19, (5, 30), "Descaler|Cleaning Tablets|Brush Set|Water Filter|Microfibre Cloth"),
    ("Vouchers", 0, (20, 100), "Gift Voucher 20|Gift Voucher 50|Gift Voucher 100"),
)

ANALYTICS_SOURCES = (
    ("ORGANIC_SEARCH", 0.34),
    ("DIRECT_TRAFFIC", 0.2),
    ("PAID_SOCIAL", 0.16),
    ("PAID_SEARCH", 0.12),
    ("EMAIL_MARKETING", 0.08),
    ("REFERRALS", 0.06),
    ("OFFLINE", 0.04),
)

PAYMENT_METHODS = (
    ("ppcp-gateway", 0.42),
    ("stripe_cc", 0.24),
    ("bacs", 0.14),
    ("klarna_payments", 0.2),
)

# Units of EUR for one unit, by year and month parity: enough movement to tell rates apart.
USD_RATES = ("0.9180", "0.9245", "0.9312", "0.9104", "0.8976", "0.9051")
