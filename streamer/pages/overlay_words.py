"""What the overlay calls SoccerNet's labels, in each language that it speaks. Portuguese is Portugal's."""

from engines.labels import SOCCERNET_LABELS


def _words(*words: str) -> dict[str, str]:
    """Return label → words; they come in the order of SoccerNet's labels."""
    return dict(zip(SOCCERNET_LABELS, words, strict=True))


WORDS: dict[str, dict[str, str]] = {
    "en": _words(
        *("Penalty", "Kick-off", "Goal", "Substitution", "Offside", "Shot on target", "Shot off target"),
        *("Clearance", "Ball out of play", "Throw-in", "Foul", "Indirect free kick", "Free kick", "Corner"),
        *("Yellow card", "Red card", "Second yellow card"),
    ),
    "de": _words(
        *("Elfmeter", "Anstoß", "Tor", "Auswechslung", "Abseits", "Schuss aufs Tor", "Schuss am Tor vorbei"),
        *("Geklärt", "Ball im Aus", "Einwurf", "Foul", "Indirekter Freistoß", "Freistoß", "Eckball"),
        *("Gelbe Karte", "Rote Karte", "Gelb-Rote Karte"),
    ),
    "es": _words(
        *("Penalti", "Saque inicial", "Gol", "Cambio", "Fuera de juego", "Tiro a puerta", "Tiro fuera"),
        *("Despeje", "Balón fuera", "Saque de banda", "Falta", "Tiro libre indirecto", "Tiro libre"),
        *("Saque de esquina", "Tarjeta amarilla", "Tarjeta roja", "Segunda amarilla"),
    ),
    "fr": _words(
        *("Penalty", "Coup d’envoi", "But", "Remplacement", "Hors-jeu", "Tir cadré", "Tir non cadré"),
        *("Dégagement", "Ballon sorti", "Touche", "Faute", "Coup franc indirect", "Coup franc", "Corner"),
        *("Carton jaune", "Carton rouge", "Second carton jaune"),
    ),
    "it": _words(
        *("Rigore", "Calcio d’inizio", "Gol", "Sostituzione", "Fuorigioco", "Tiro in porta", "Tiro fuori"),
        *("Rinvio", "Palla fuori", "Rimessa laterale", "Fallo", "Punizione indiretta", "Punizione"),
        *("Calcio d’angolo", "Cartellino giallo", "Cartellino rosso", "Doppia ammonizione"),
    ),
    "pt": _words(
        *("Penálti", "Pontapé de saída", "Golo", "Substituição", "Fora de jogo", "Remate à baliza", "Remate ao lado"),
        *("Alívio", "Bola fora", "Lançamento lateral", "Falta", "Livre indireto", "Livre direto", "Canto"),
        *("Cartão amarelo", "Cartão vermelho", "Segundo amarelo"),
    ),
}
"""Language → label → words."""
