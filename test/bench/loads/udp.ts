/*
 * The highest rate that loses less than 1 %: doubled until too much is lost, then halved between the two.
 *
 *     20 k ok ─▶ 40 k ok ─▶ 80 k lost ─▶ 60 k ok ─▶ 70 k lost ─▶ 65 k …
 *
 * A rate that loses too much is tried once more, because another process may have had the core.
 */
export interface Sent {
  /** Datagrams that arrived, a second. */
  perSecond: number
  /** The share that did not. */
  lost: number
}

export const LOST_AT_MOST = 0.01

/** How near the two ends of the search must come, as a share. */
const CLOSE = 0.1

/** Datagrams a second that arrive at the highest rate with little enough lost; 0 when even the first rate loses more. */
export async function highestRate(
  send: (perSecond: number) => Promise<Sent>,
  { first = 20_000, most = 1_000_000 }: { first?: number; most?: number } = {},
): Promise<number> {
  let arrived = 0
  let good = 0
  let bad: number | undefined
  for (let rate = first; ; rate = bad === undefined ? 2 * rate : (good + bad) / 2) {
    const sent = await twice(send, rate)
    if (sent.lost < LOST_AT_MOST) {
      if (sent.perSecond < rate * 0.9) return sent.perSecond // the sender itself can no more
      good = rate
      arrived = sent.perSecond
    } else bad = rate
    if (good >= most || (bad !== undefined && (bad - good <= CLOSE * bad || bad < first / 8))) return arrived
  }
}

async function twice(send: (perSecond: number) => Promise<Sent>, rate: number): Promise<Sent> {
  const sent = await send(rate)
  return sent.lost < LOST_AT_MOST ? sent : send(rate)
}
