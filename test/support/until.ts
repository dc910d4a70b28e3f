/** Longer than a busy machine takes, and so short that a file with a wait in vain fails by itself, before it is ended without a word. */
const LIMIT_MS = 120_000
/** Between two looks at something in this process. */
const LOOK_MS = 2
/** Between two questions: to answer one, the root takes milliseconds. */
const ASK_MS = 20
/** Of a claim that has no name. */
const MOST_TEXT = 200

export interface UntilOptions {
  limitMs?: number
  lookMs?: number
}

/**
 * Waits for a state: looks again and again until the claim holds. In vain, it fails and says what it waited for (else the text of the
 * claim) and what `seen` says was there instead.
 */
export async function until(
  isSo: () => unknown,
  what: string = textOf(isSo),
  seen?: () => unknown,
  { limitMs = LIMIT_MS, lookMs }: UntilOptions = {},
): Promise<void> {
  for (const endAt = performance.now() + limitMs; ; ) {
    const answer = isSo()
    if (await answer) return
    if (performance.now() > endAt) {
      throw new Error(
        `not within ${limitMs / 1_000} s: ${what}${seen === undefined ? '' : `; last seen: ${await shown(seen)}`}`,
      )
    }
    await new Promise((resolve) => setTimeout(resolve, lookMs ?? (answer instanceof Promise ? ASK_MS : LOOK_MS)))
  }
}

async function shown(seen: () => unknown): Promise<string> {
  try {
    const state: unknown = await seen()
    return typeof state === 'string' ? state : JSON.stringify(state)
  } catch (error) {
    return String(error)
  }
}

/** The claim as it stands in the test, without its arrow. */
function textOf(isSo: () => unknown): string {
  const text = String(isSo)
    .replace(/^(async )?\(\) =>\s*/, '')
    .replaceAll(/\s+/g, ' ')
  return text.length > MOST_TEXT ? `${text.slice(0, MOST_TEXT)}…` : text
}
