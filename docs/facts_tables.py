"""What `make_facts.py` takes from no source: wordings, rules by name, and tables written by hand."""


def _words(text: str) -> list[str]:
    return text.split()


def _names(text: str) -> list[str]:
    return [name.strip() for line in text.splitlines() for name in line.split("|")]


# Wordings by what is asked about, each true and good English for every subject of it.
WORDINGS = {
    "official language of a country or territory": (
        "The official language of {} is",
        "In {}, the official language is",
        "The official language in {} is called",
        "Official documents in {} are written in",
    ),
    "language of a city": (
        "The main language of the city of {} is",
        "In the city of {}, the official language is",
        "The official language in {} is",
        "Official letters from the city hall of {} are written in",
    ),
    "language of the name of a weekday": (
        'The weekday name "{}" is a word in',
        'The day of the week called "{}" is written in',
        'The word "{}" means a day of the week in',
    ),
    "capital of a country or territory": (
        "The capital of {} is the city of",
        "The capital of {} is",
        "The capital city of {} is called",
        "The city that serves as the capital of {} is called",
    ),
    "country of a city": (
        "The city of {} is located in",
        "The city of {} belongs to the country of",
        "The city of {} is a large city in the country of",
        "{} is a city in the country of",
    ),
    "color of a thing": (
        "The color of {} is usually",
        "The color of {} is typically",
        "The color of {} is mostly",
        "The usual color of {} is",
    ),
    "color of a shade": (
        "{} is a shade of",
        "{} is one of the many shades of",
        "{} is the name of a shade of the color",
    ),
    "color word of another language": (
        "The {} stands for the color",
        "The {} means the color",
        "The {} describes the color",
    ),
    "how many of something": (
        "How many {} are there? There are",
        "Question: How many {} are there? Answer: There are",
        "There are a hundred cents in a dollar. How many {} are there? There are",
        "If you count the {}, you will find that there are",
    ),
    "number word of another language": (
        "The {} means the number",
        "The {} stands for the number",
        'Just as the Latin word "mille" means thousand, the {} means',
    ),
    "month of a day of the year": (
        "Each year, {} comes in the month of",
        "On the calendar, {} falls in the month of",
        "In the calendar, {} is a day in the month of",
    ),
    "month of an event of history": (
        "The {} took place in the month of",
        "The {} happened in the month of",
        "The anniversary of the {} comes every year in",
        "History books date the {} to the month of",
    ),
    "month next to another": (
        "The month that comes right {} is",
        "The month immediately {} is",
        "The month just {} is called",
    ),
    "month name of another language": (
        "The {} stands for the month of",
        "The {} means the month of",
        "In English, the {} means",
    ),
}

# Dissolved, without lasting inhabitants, or of disputed standing.
NO_COUNTRY = _words("AN CS AQ BV GS HM IO TF UM SJ EH PS TW XK")
# What GeoNames spells as English does not.
COUNTRY_NAMES = {
    "AX": "Åland",
    "BL": "Saint Barthélemy",
    "BQ": "Caribbean Netherlands",
    "CV": "Cape Verde",
    "CW": "Curaçao",
    "NL": "Netherlands",
    "PN": "Pitcairn Islands",
    "RE": "Réunion",
    "TL": "East Timor",
    "VA": "Vatican City",
}
COUNTRY_ALIASES = {"CZ": ("Czech Republic",), "MM": ("Burma",), "TR": ("Türkiye",)}
# Their names take "the" in a sentence.
WITH_THE = _words("AE BQ BS CC CD CF CG CK DO FK FO GB GM IM KM KY MH MP MV NL PH PN SB SC TC US VG VI")
# Parts of other states that have their own code.
DEPENDENT = _words(
    "AI AS AW AX BL BM BQ CC CK CW CX FK FO GF GG GI GL GP GU HK IM JE KY MF MO MP MQ MS NC NF NU PF PM "
    "PN PR RE SH SX TC TK VG VI WF YT"
)
CAPITALS = {"CR": "San José", "KZ": "Astana", "MM": "Naypyidaw"}
CAPITAL_ALIASES = {"MN": ("Ulan Bator",), "UA": ("Kiev",), "US": ("Washington, D.C.",)}
# Cities share the part, the seat moved lately, the sources differ, or the name is another place's too.
UNCLEAR_CAPITAL = _words("BI BJ BO CI GE GQ IL KI LK ME MS MY NL NR PW SZ TK TZ ZA")

CITIES_PER_COUNTRY = 6
CITY_INHABITANTS = 100_000
CITY_NAMES_IN_OTHER_LANGUAGES = 40  # parts of a city that GeoNames lists as cities have few
CITY_NAMES = {
    "Basrah": "Basra",
    "Brugge": "Bruges",
    "Gent": "Ghent",
    "Irákleion": "Heraklion",
    "Köln": "Cologne",
    "Madinah": "Medina",
    "Makkah": "Mecca",
    "Nizhniy Novgorod": "Nizhny Novgorod",
    "Sevilla": "Seville",
}
# Parts of other cities, or places that are held or claimed by more than one state.
NO_CITY = _names(
    """Abobo|Avellaneda|Bender|Bronx|Brooklyn|Buda|Donetsk|Hargeysa|Iztapalapa|Jerusalem|Kherson|Kowloon
    Luhansk|Manhattan|Melitopol|Pest|Queens|Sevastopol|Simferopol|South Dublin|Sunshine Coast|Tiraspol
    Zaporizhzhya"""
)

LANGUAGE_SHARE = 60  # percent of the inhabitants
# Other languages are official too, which CLDR does not say.
SEVERAL_LANGUAGES = _words("CK GG IQ JE MK MP NF PN VA")
# Most people in their cities come from abroad, so that the official language need not be the main one.
MANY_LANGUAGES = _words("AE BH KW OM QA")
LANGUAGE_NAMES = {"bn": "Bengali", "dv": "Dhivehi", "kl": "Greenlandic"}
LANGUAGE_ALIASES = {"zh": ("Mandarin",), "fa": ("Farsi",)}
DAYS_PER_LANGUAGE = 3

# Well-known languages in Latin letters, whose words number, month and color facts ask for.
WORD_LANGUAGES = {
    "es": "Spanish", "fr": "French", "it": "Italian", "pt": "Portuguese", "de": "German", "nl": "Dutch",
    "sv": "Swedish", "da": "Danish", "pl": "Polish", "tr": "Turkish", "ro": "Romanian", "fi": "Finnish",
    "id": "Indonesian", "sw": "Swahili",
}  # fmt: skip
NUMBERS = _words(
    "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen twenty"
)
MONTHS = _words("January February March April May June July August September October November December")
HOLIDAY_YEARS = range(2010, 2026)
# Holidays of these names are kept; each falls on a date of its own in each country.
NATIONAL_HOLIDAYS = _names(
    """Independence Day|National Day|Republic Day|Constitution Day|Liberation Day|Victory Day|Revolution Day
    Unity Day|National Unity Day|Armed Forces Day|Army Day|Emancipation Day|Martyrs' Day|Youth Day
    National Youth Day|National Heroes' Day|National Heroes Day|Heroes' Day|Flag Day|National Flag Day
    Freedom Day|Statehood Day|Women's Day|Mother's Day|Children's Day
    National Liberation Day|Foundation Day|Thanksgiving Day"""
)
UNCLEAR_DAYS = frozenset({"Independence Day in Somalia"})  # its parts became independent in two months

# Written by hand, since no source at hand lists them: what is asked for, by its answer.
OBSERVANCES = """
January: New Year's Day; Epiphany; Burns Night; Australia Day; Martin Luther King Day; International Holocaust Remembrance Day; World Braille Day; Republic Day in India; Orthodox Christmas in Russia
February: Valentine's Day; Groundhog Day; Waitangi Day in New Zealand; Candlemas; World Cancer Day; Darwin Day; World Wetlands Day; International Mother Language Day; Presidents' Day in the United States
March: Saint Patrick's Day; International Women's Day; Pi Day; World Water Day; Saint David's Day in Wales; the feast of Saint Joseph; World Poetry Day; World Wildlife Day; the Ides on which Caesar was killed; the spring equinox in Europe
April: Earth Day; ANZAC Day; World Health Day; Saint George's Day in England; King's Day in the Netherlands; UNESCO's World Book Day; World Autism Awareness Day; Walpurgis Night; Tax Day in the United States
May: Europe Day; Star Wars Day; International Workers' Day; World Press Freedom Day; Towel Day; World Red Cross Day; International Nurses Day; World No Tobacco Day; Memorial Day in the United States; Mother's Day in the United States; Africa Day
June: World Environment Day; World Oceans Day; Juneteenth; Bloomsday; World Blood Donor Day; World Refugee Day; the summer solstice in Europe; Russia Day; Father's Day in the United States; Midsummer in Sweden; Flag Day in the United States
July: Bastille Day; Canada Day; Nelson Mandela Day; World Population Day; Independence Day in the United States; the running of the bulls in Pamplona
August: the feast of the Assumption of Mary; International Youth Day; International Cat Day; Swiss National Day; the remembrance of Hiroshima; World Humanitarian Day; International Left-Handers Day
September: the International Day of Peace; International Literacy Day; World Tourism Day; Talk Like a Pirate Day; Michaelmas; Patriot Day in the United States; Labor Day in the United States; the autumn equinox in Europe; Grandparents' Day in the United States
October: Halloween; World Teachers' Day; United Nations Day; World Food Day; World Mental Health Day; Reformation Day; Columbus Day in the United States; German Unity Day; Ada Lovelace Day; the feast of Saint Francis of Assisi; Thanksgiving in Canada
November: Guy Fawkes Night; All Saints' Day; All Souls' Day; Veterans Day in the United States; Armistice Day; Thanksgiving in the United States; Black Friday; Saint Andrew's Day in Scotland; World Toilet Day; World Children's Day; Remembrance Day in Canada; Martinmas; Singles' Day in China
December: Christmas Day; Christmas Eve; Boxing Day; New Year's Eve; World AIDS Day; Human Rights Day; Saint Nicholas Day; Saint Lucy's Day; Saint Stephen's Day; Kwanzaa; Pearl Harbor Remembrance Day; the winter solstice in Europe; the Nobel Prize ceremony in Stockholm; Hogmanay
"""  # noqa: E501
EVENTS = """
January: explosion of the space shuttle Challenger; liberation of Auschwitz; death of Mahatma Gandhi; inauguration of John F. Kennedy; Tet Offensive
February: Yalta Conference; signing of the Treaty of Waitangi; release of Nelson Mandela from prison; murder of Malcolm X
March: murder of Julius Caesar; Fukushima nuclear accident; death of Joseph Stalin; death of Ludwig van Beethoven; Boston Massacre
April: sinking of the Titanic; assassination of Abraham Lincoln; Chernobyl disaster; assassination of Martin Luther King; first space flight of Yuri Gagarin; death of Adolf Hitler; Battle of Lexington and Concord; Bay of Pigs invasion; fall of Saigon
June: D-Day landings in Normandy; Battle of Waterloo; assassination of Franz Ferdinand; signing of the Treaty of Versailles; sealing of Magna Carta; Brexit referendum; Tiananmen Square massacre; murder of Robert F. Kennedy; Battle of Midway; Battle of the Little Bighorn; start of the Korean War
July: storming of the Bastille; first landing on the Moon; Battle of Gettysburg; adoption of the Declaration of Independence; start of the Spanish Civil War
August: bombing of Hiroshima; bombing of Nagasaki; death of Princess Diana; Woodstock festival; death of Elvis Presley
September: Great Fire of London; German invasion of Poland that began the Second World War; attack on the World Trade Center that destroyed it; Munich Agreement; signing of the United States Constitution; formal surrender of Japan; death of Queen Elizabeth II
October: Battle of Hastings; Battle of Trafalgar; landfall of Christopher Columbus in America; launch of Sputnik; Cuban Missile Crisis; Wall Street Crash of 1929; posting of Martin Luther's theses; Battle of Agincourt; surrender at Yorktown
November: fall of the Berlin Wall; assassination of John F. Kennedy; Gettysburg Address; armistice of the First World War; Gunpowder Plot; first election of Barack Obama; Beer Hall Putsch
December: attack on Pearl Harbor; Boston Tea Party; first flight of the Wright brothers; murder of John Lennon; Indian Ocean tsunami of 2004; dissolution of the Soviet Union; death of George Washington; coronation of Napoleon as emperor; Battle of Austerlitz; first human heart transplant; coronation of Charlemagne
"""  # noqa: E501
COUNTS = """
two: wheels on a bicycle; wheels on a motorcycle; wings of a bird; eyes on a human face; lungs in a human body; kidneys in a human body; ears on a human head; legs of a bird; arms of a human; hands of a human; feet of a human; hydrogen atoms in a water molecule; sides of a coin; humps of a Bactrian camel; moons of Mars; wings of a fly; players in a game of chess; houses of the United States Congress; lenses in a pair of glasses; legs of a chicken; legs of an ostrich; poles of a magnet; pints in a quart; hulls of a catamaran; people in a couple
three: sides of a triangle; angles of a triangle; corners of a triangle; wheels on a tricycle; feet in a yard; leaves of a shamrock; colors on a traffic light; branches of the United States government; legs of a tripod; musicians in a trio; babies in a set of triplets; goals in a hat trick; prongs of a trident; oxygen atoms in an ozone molecule; little pigs in the fairy tale; bears that Goldilocks met; lines in a haiku; books in a trilogy; teaspoons in a tablespoon; body segments of an insect; hearts of an octopus; musketeers in the title of Dumas's novel; atoms in a water molecule; persons of the Holy Trinity; heads of Cerberus; strikes for an out in baseball; witches in Macbeth; primary colors of light
four: sides of a square; sides of a rectangle; sides of a trapezoid; legs of a dog; legs of a cat; legs of a horse; legs of a cow; legs of a lion; legs of a pig; legs of a sheep; legs of a frog; legs of a lizard; legs of a giraffe; legs of a turtle; legs of a mouse; legs of an elephant; legs of a table; wheels on a car; seasons in a year; strings on a violin; strings on a cello; strings on a viola; strings on a ukulele; strings on a standard bass guitar; chambers of the human heart; suits in a deck of cards; quarts in a gallon; members of the Beatles; quarters in a dollar; cardinal points of the compass; Gospels in the New Testament; wings of a bee; wings of a butterfly; wings of a dragonfly; bases on a baseball diamond; moons of Jupiter that Galileo discovered; musicians in a quartet; stomach chambers of a cow; leaves of a lucky clover; faces of a tetrahedron; presidents on Mount Rushmore; horsemen of the Apocalypse; hydrogen atoms in a methane molecule; years in a term of an American president; quarters in an American football game; nations of the United Kingdom; bits in a nibble; Noble Truths of Buddhism
five: fingers on a hand; toes on a foot; sides of a pentagon; angles of a pentagon; corners of a pentagon; arms of a common starfish; Olympic rings; players of a basketball team on the court; Great Lakes of North America; lines of a musical staff; senses that Aristotle named; books of the Torah; boroughs of New York City; points of a pentagram; musicians in a quintet; pillars of Islam; cards in a poker hand; events in a modern pentathlon; nickels in a quarter; permanent members of the United Nations Security Council; lines in a limerick; cents in a nickel; Platonic solids; points scored for a try in rugby union
six: legs of an insect; legs of an ant; legs of a bee; legs of a fly; legs of a beetle; legs of a butterfly; legs of a mosquito; legs of a grasshopper; legs of a ladybug; legs of a cockroach; legs of a wasp; legs of a moth; legs of a dragonfly; sides of a hexagon; angles of a hexagon; faces of a cube; faces of a die; strings on a standard guitar; players of a volleyball team on the court; wives of Henry the Eighth; balls in a cricket over; points scored for a touchdown; points of the Star of David; players of an ice hockey team on the ice; arms of a snowflake; feet in a fathom; sides of a honeycomb cell; quarks in the Standard Model; musicians in a sextet; pockets on a pool table; dots in a Braille cell; states of Australia; colors on a Rubik's cube; eggs in half a dozen; carbon atoms in a glucose molecule; carbon atoms in a benzene molecule; months in half a year
seven: days in a week; continents that American schools teach; colors of Newton's rainbow; dwarfs in the tale of Snow White; wonders of the ancient world; deadly sins; players of a water polo team in the pool; notes of a major scale; sides of a heptagon; Harry Potter novels; hills of Rome; vertebrae in the human neck; vertebrae in a giraffe's neck; players of a handball team on the court; tiles on a Scrabble player's rack; events in a heptathlon; rays on the crown of the Statue of Liberty; books of the Chronicles of Narnia; stars of the Big Dipper; sacraments of the Catholic Church; emirates of the United Arab Emirates; days of creation with the day of rest
eight: legs of a spider; legs of a scorpion; legs of a tick; legs of a mite; legs of a tarantula; arms of an octopus; sides of an octagon; angles of an octagon; planets in the solar system; sides of a stop sign; bits in a byte; musicians in an octet; pawns of each player in chess; furlongs in a mile; pints in a gallon; corners of a cube; faces of an octahedron; rowers in the largest Olympic boat; squares in a row of a chessboard; fluid ounces in a cup; reindeer of Santa without Rudolph; nights of Hanukkah
nine: players of a baseball team on the field; innings in a baseball game; lives of a cat in the English proverb; justices of the United States Supreme Court; Muses of Greek mythology; months of a pregnancy; sides of a nonagon; circles of Hell in Dante's poem; squares in a game of tic-tac-toe; holes on half a golf course; symphonies of Beethoven; rows in a Sudoku; members of the Fellowship of the Ring; square feet in a square yard; Ringwraiths
ten: fingers of a human; toes of a human; commandments of Moses; years in a decade; pins in bowling; frames in a game of bowling; sides of a decagon; dimes in a dollar; legs of a crab; legs of a lobster; legs of a shrimp; events in a decathlon; millimeters in a centimeter; plagues of Egypt; amendments in the Bill of Rights; digits of the decimal system; cents in a dime; decades in a century; provinces of Canada
eleven: players of a soccer team on the field; players of a cricket team; players of an American football team on the field; sides of a hendecagon; players of a field hockey team on the field; apostles left after the death of Judas
twelve: months in a year; inches in a foot; eggs in a dozen; signs of the zodiac; apostles of Jesus; hours on a clock face; sides of a dodecagon; edges of a cube; labors of Hercules; tribes of Israel; days of Christmas; pairs of human ribs; faces of a dodecahedron; animals of the Chinese zodiac; pence in an old shilling; astronauts who walked on the Moon; stars on the flag of Europe; semitones in an octave; troy ounces in a troy pound
thirteen: stripes on the American flag; original American colonies; loaves in a baker's dozen; cards in each suit of a deck; players of a rugby league team on the field; people at the Last Supper
fourteen: lines in a sonnet; days in a fortnight; pounds in a stone; stations of the Cross
fifteen: players of a rugby union team on the field; minutes in a quarter of an hour; checkers of each player in backgammon; red balls in snooker
sixteen: ounces in a pound; pieces of each player in chess; cups in a gallon; digits of the hexadecimal system; tablespoons in a cup
seventeen: syllables in a haiku; United Nations Sustainable Development Goals
eighteen: holes on a golf course
nineteen: lines across a Go board; years in the Metonic cycle
twenty: fingers and toes of a human; years in a score; faces of an icosahedron; shillings in an old British pound; baby teeth of a child; nickels in a dollar
thirty: seconds in half a minute; minutes in half an hour; days in the month after May; days in the month before December
forty: days of Lent; days of rain in Noah's flood; thieves in the tale of Ali Baba; days of Jesus's fast in the desert
fifty: states of the United States; stars on the American flag; cents in half a dollar; years in half a century
sixty: seconds in a minute; minutes in an hour; degrees in each angle of an equilateral triangle
ninety: degrees in a right angle; minutes in a soccer game
"""  # noqa: E501
COLORS = """
red: blood; a ruby; a stop sign; a fire engine; the planet Mars; a ripe strawberry; a ripe tomato; ketchup; rust on iron; a British telephone box; a London bus; a cooked lobster; a cardinal bird; a poppy; the Soviet flag; the sun on the Japanese flag; the background of the Chinese flag; a cherry; cinnabar; the suit of Santa Claus; the suit of hearts; the maple leaf on the flag of Canada; the card for a sending-off in soccer; the stop signal of a traffic light; a raspberry
orange: a carrot; a ripe pumpkin; the fur of a tiger between the stripes; a basketball; a traffic cone; a clownfish; the fruit of a tangerine; an apricot; the jersey of the Dutch national soccer team; a monarch butterfly's wings; the flesh of a cantaloupe
yellow: a ripe banana; a lemon; egg yolk; sulfur; a dandelion; a New York taxi; an American school bus; butter; a canary; a sunflower's petals; the jersey of the leader in the Tour de France; corn; mustard; the card for a caution in soccer; the stars on the flag of China; Big Bird; SpongeBob SquarePants; Pikachu; Homer Simpson's skin; a baby chick; a daffodil
green: grass; an emerald; a leaf in spring; chlorophyll; spinach; broccoli; a cucumber; a lime; a pea; jade; an unripe banana; Kermit the Frog; the Hulk; Shrek; Yoda; the field of the Saudi flag; the Emerald City; the Statue of Liberty; lettuce; parsley; a shamrock; the jacket of the Masters champion in golf; the felt of a billiard table; a cactus; an avocado's flesh; the go signal of a traffic light; copper patina; moss; a Granny Smith apple
blue: the sky on a clear day; a sapphire; the ocean on a map; the Smurfs; denim jeans; the field of the United Nations flag; lapis lazuli; a blueprint; Cookie Monster; Sonic the Hedgehog; the Na'vi in Avatar; the field of the European flag; the cross on the flag of Finland; the planet Neptune; a robin's egg; cobalt glass
purple: an amethyst; an eggplant; lavender flowers; a plum; Barney the dinosaur; grape juice; a violet
pink: a flamingo; bubblegum; Barbie's favorite clothes; a piglet; cotton candy; cherry blossom; the Panther in the cartoons with Inspector Clouseau; the jersey of the leader in the Giro d'Italia; healthy gums
brown: chocolate; coffee beans; tree bark; a chestnut; mud; a grizzly bear; toast; a walnut shell; a UPS truck; cinnamon; an American football; peanut butter; soil; cocoa powder; a sparrow; caramel
black: coal; a raven; a crow; tar; the suit of spades; the suit of clubs; the night sky; a hockey puck; asphalt; obsidian; ebony; soot; licorice; a car tire; the eight ball in pool; charcoal; onyx; Darth Vader's helmet; the jersey of the New Zealand rugby team; the robe of an American judge; the pupil of an eye; a tuxedo; the pirate flag behind the skull; jet; the belt of a judo master
white: snow; milk; salt; a polar bear's fur; chalk; a swan; ivory; a pearl; cotton; flour; the flag of surrender; a wedding dress in the West; rice; sugar; a golf ball; paper; a dove; the cue ball in pool; the cross on the flag of Switzerland; vanilla ice cream; a cauliflower; an egret; a sheep's wool; teeth; a lily; the house of the American president; marble of the Taj Mahal; a cloud in fair weather; the stars on the flag of the United States; mayonnaise; a chef's hat; a snowman; the crescent on the flag of Turkey; Moby Dick
gray: an elephant; ash; concrete; lead; a storm cloud; a dolphin; a rhinoceros; a koala
"""  # noqa: E501
SHADES = """
red: Crimson; Scarlet; Vermilion; Carmine; Burgundy; Maroon
orange: Tangerine; Pumpkin; Apricot; Carrot
yellow: Lemon; Canary; Mustard; Maize
green: Emerald; Olive; Lime; Jade; Mint; Sage; Pistachio; Viridian; Avocado; Moss; Fern
blue: Navy; Azure; Cobalt; Cerulean; Sapphire; Ultramarine; Denim
purple: Lavender; Plum; Lilac; Mauve; Amethyst; Mulberry; Eggplant; Orchid
pink: Rose; Blush; Bubblegum; Carnation; Flamingo
brown: Chocolate; Chestnut; Sienna; Umber; Sepia; Mocha; Hazel; Tan; Coffee; Walnut
black: Jet; Ebony; Onyx
white: Ivory; Alabaster; Eggshell; Pearl; Snow
gray: Slate; Ash; Gunmetal
"""
COLORS_OF_WORDS = _words("red blue green yellow black white pink orange purple brown gray")
COLOR_WORDS = {  # - where the word is two, or the same as in English
    "Spanish": "rojo azul verde amarillo negro blanco rosa naranja morado marrón gris",
    "French": "rouge bleu vert jaune noir blanc - - violet marron gris",
    "Italian": "rosso blu verde giallo nero bianco rosa arancione viola marrone grigio",
    "Portuguese": "vermelho azul verde amarelo preto branco rosa laranja roxo marrom cinza",
    "German": "rot blau grün gelb schwarz weiß rosa - lila braun grau",
    "Dutch": "rood blauw groen geel zwart wit roze oranje paars bruin grijs",
    "Swedish": "röd blå grön gul svart vit rosa - lila brun grå",
    "Danish": "rød blå grøn gul sort hvid lyserød - lilla brun grå",
    "Polish": "czerwony niebieski zielony żółty czarny biały różowy pomarańczowy fioletowy brązowy szary",
    "Turkish": "kırmızı mavi yeşil sarı siyah beyaz pembe turuncu mor kahverengi gri",  # noqa: RUF001
    "Romanian": "roșu albastru verde galben negru alb roz portocaliu mov maro gri",
    "Finnish": "punainen sininen vihreä keltainen musta valkoinen - oranssi violetti ruskea harmaa",
    "Indonesian": "merah biru hijau kuning hitam putih - jingga ungu cokelat abu-abu",
}
