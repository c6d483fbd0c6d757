"""Emoji by category: subgroups of emoji-test.txt of Unicode 15.0, and a plain word for each.

Of each subgroup, the first 40 emoji of one character that the demo model's sheet has. Flags are left out:
there are as many as all others together.
"""

from __future__ import annotations

# Label -> emoji, one character each.
CATEGORIES = {
    # face-smiling
    "smiling face": "😀😃😄😁😆😅🤣😂🙂🙃🫠😉😊😇",
    # cat-face
    "cat face": "😺😸😹😻😼😽🙀😿😾",
    # heart
    "heart": "💌💘💝💖💗💓💞💕💟❣💔❤🧡💛💚💙💜🤎🖤🤍",
    # animal-mammal
    "animal": "🐵🐒🦍🦧🐶🐕🦮🐩🐺🦊🦝🐱🐈🦁🐯🐅🐆🐴🐎🦄🦓🦌🦬🐮🐂🐃🐄🐷🐖🐗🐽🐏🐑🐐🐪🐫🦙🦒🐘🦣",
    # animal-bird
    "bird": "🦃🐔🐓🐣🐤🐥🐦🐧🕊🦅🦆🦢🦉🦤🪶🦩🦚🦜",
    # animal-bug
    "bug": "🐌🦋🐛🐜🐝🪲🐞🦗🪳🕷🕸🦂🦟🪰🪱🦠",
    # plant-flower
    "flower": "💐🌸💮🪷🏵🌹🥀🌺🌻🌼🌷",
    # food-fruit
    "fruit": "🍇🍈🍉🍊🍋🍌🍍🥭🍎🍏🍐🍑🍒🍓🫐🥝🍅🫒🥥",
    # food-vegetable
    "vegetable": "🥑🍆🥔🥕🌽🌶🫑🥒🥬🥦🧄🧅🥜🫘🌰",
    # drink
    "drink": "🍼🥛☕🫖🍵🍶🍾🍷🍸🍹🍺🍻🥂🥃🫗🥤🧋🧃🧉🧊",
    # place-building
    "building": "🏟🏛🏗🧱🪨🪵🛖🏘🏚🏠🏡🏢🏣🏤🏥🏦🏨🏩🏪🏫🏬🏭🏯🏰💒🗼🗽",
    # transport-ground
    "vehicle": "🚂🚃🚄🚅🚆🚇🚈🚉🚊🚝🚞🚋🚌🚍🚎🚐🚑🚒🚓🚔🚕🚖🚗🚘🚙🛻🚚🚛🚜🏎🏍🛵🦽🦼🛺🚲🛴🛹🛼🚏",
    # transport-water
    "boat": "⚓🛟⛵🛶🚤🛳⛴🛥🚢",
    # time
    "clock": "⌛⏳⌚⏰⏱⏲🕰🕛🕧🕐🕜🕑🕝🕒🕞🕓🕟🕔🕠🕕🕡🕖🕢🕗🕣🕘🕤🕙🕥🕚🕦",
    # sport
    "sport": "⚽⚾🥎🏀🏐🏈🏉🎾🥏🎳🏏🏑🏒🥍🏓🏸🥊🥋🥅⛳⛸🎣🤿🎽🎿🛷🥌",
    # clothing
    "clothing": "👓🕶🥽🥼🦺👔👕👖🧣🧤🧥🧦👗👘🥻🩱🩲🩳👙👚👛👜👝🛍🎒🩴👞👟🥾🥿👠👡🩰👢👑👒🎩🎓🧢🪖",
    # musical-instrument
    "musical instrument": "🎷🪗🎸🎹🎺🎻🪕🥁🪘",
    # mail
    "mail": "✉📧📨📩📤📥📦📫📪📬📭📮🗳",
    # tool
    "tool": "🔨🪓⛏⚒🛠🗡⚔💣🪃🏹🛡🪚🔧🪛🔩⚙🗜⚖🦯🔗⛓🪝🧰🧲🪜",
    # arrow
    "arrow": "⬆↗➡↘⬇↙⬅↖↕↔↩↪⤴⤵🔃🔄🔙🔚🔛🔜🔝",
    # zodiac
    "zodiac": "♈♉♊♋♌♍♎♏♐♑♒♓⛎",
    # money
    "money": "💰🪙💴💵💶💷💸💳🧾💹",
    # book-paper
    "book": "📔📕📖📗📘📙📚📓📒📃📜📄📰🗞📑🔖🏷",
}
