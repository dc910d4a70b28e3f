/** What a link does to frames, in each of its two directions. */
export interface LinkConditions {
  delayMs?: number
  /** Up to so much more or less than `delayMs`, evenly spread; the order is kept. */
  jitterMs?: number
  lossPercent?: number
  /** Frames that overtake: they leave without the delay. */
  reorderPercent?: number
  rateMbit?: number
  /** What waits for its turn at `rateMbit`, and is dropped beyond: 100 ms of the rate, at least 64 KiB, unless given. */
  queueKiB?: number
}

export type Conditions = Required<Omit<LinkConditions, 'rateMbit' | 'queueKiB'>> & {
  rateMbit: number | undefined
  queueKiB: number
}

/** @throws Error naming the condition that no link can have. */
export function conditionsOf(given: LinkConditions): Conditions {
  const { delayMs = 0, jitterMs = 0, lossPercent = 0, reorderPercent = 0, rateMbit } = given
  const { queueKiB = Math.max(64, ((rateMbit ?? 0) * 100) / 8) } = given
  const conditions = { delayMs, jitterMs, lossPercent, reorderPercent, rateMbit, queueKiB }
  for (const [name, value] of Object.entries(conditions)) {
    if (value === undefined) continue
    const most = name.endsWith('Percent') ? 100 : name.endsWith('Ms') ? 10_000 : 1_000_000
    const isPositive = name === 'rateMbit' || name === 'queueKiB'
    if (!(value >= 0 && value <= most) || (isPositive && value === 0)) {
      throw new Error(`a link cannot have ${name} ${value} (${isPositive ? 'more than 0' : '0'} to ${most})`)
    }
  }
  if (jitterMs > delayMs) throw new Error(`a link cannot have jitterMs ${jitterMs} beyond its delayMs ${delayMs}`)
  return conditions
}

/** For people: `50 ms ± 5, 1 % loss, 20 Mbit/s`. */
export function printConditions(given: LinkConditions): string {
  const { delayMs, jitterMs, lossPercent, reorderPercent, rateMbit } = conditionsOf(given)
  const parts = [
    delayMs > 0 ? `${delayMs} ms${jitterMs > 0 ? ` ± ${jitterMs}` : ''}` : '',
    lossPercent > 0 ? `${lossPercent} % loss` : '',
    reorderPercent > 0 ? `${reorderPercent} % reordered` : '',
    rateMbit === undefined ? '' : `${rateMbit} Mbit/s`,
  ].filter((part) => part !== '')
  return parts.length === 0 ? 'no conditions' : parts.join(', ')
}
