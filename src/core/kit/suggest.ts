/** Longer words are not compared: mistyped keys are short. */
const MAX_COMPARED = 48

/** The known word that was probably meant, or `undefined` when none is close. */
export function nearest(word: string, known: Iterable<string>): string | undefined {
  if (word.length > MAX_COMPARED) return undefined
  const folded = fold(word)
  let best: { word: string; distance: number } | undefined
  for (const candidate of known) {
    const limit = Math.max(1, Math.floor(Math.min(folded.length, candidate.length) / 3))
    const other = fold(candidate)
    if (Math.abs(other.length - folded.length) > limit) continue // the distance is at least that
    const distance = editDistance(folded, other)
    if (distance <= limit && (best === undefined || distance < best.distance)) best = { word: candidate, distance }
  }
  return best?.word
}

/** `memoryMB`, `memory-mb` and `memory_mb` mean the same. */
function fold(word: string): string {
  return word.toLowerCase().replaceAll(/[-_\s]/g, '')
}

/** Insertions, deletions, replacements and swapped neighbours each count one (optimal string alignment). */
export function editDistance(a: string, b: string): number {
  let before: number[] = []
  let last = Array.from({ length: b.length + 1 }, (_, j) => j)
  for (let i = 1; i <= a.length; i++) {
    const row = [i]
    for (let j = 1; j <= b.length; j++) {
      const same = a[i - 1] === b[j - 1]
      let cost = Math.min(at(last, j) + 1, at(row, j - 1) + 1, at(last, j - 1) + (same ? 0 : 1))
      const swapped = i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1]
      if (swapped) cost = Math.min(cost, at(before, j - 2) + 1)
      row.push(cost)
    }
    before = last
    last = row
  }
  return at(last, b.length)
}

function at(row: readonly number[], index: number): number {
  return row[index] ?? Infinity
}
