import type { EventRow, InstanceRow, ServiceRow } from './rows.ts'
import { toneOf } from './services.ts'

/** An explanation of one tier as lines: each candidate, and what was said of it. */
export interface Verdict {
  id: string
  kind: 'chosen' | 'fits' | 'refused'
  /** Why it was refused, or what its score is made of. */
  text: string
}

interface Explained {
  terms: readonly string[]
  judged: readonly { id: string; refusals: Readonly<Record<string, string>>; score?: readonly number[] }[]
  chosen?: string
}

export function verdictsOf({ judged, chosen, terms }: Explained): Verdict[] {
  return judged.map(({ id, refusals, score = [] }) => {
    const reasons = Object.values(refusals)
    if (reasons.length > 0) return { id, kind: 'refused', text: reasons.join('; ') }
    const parts = score.map((value, at) => `${terms[at] ?? 'score'} ${numberText(value)}`)
    return { id, kind: id === chosen ? 'chosen' : 'fits', text: parts.join(', ') }
  })
}

function numberText(value: number): string {
  return Number.isInteger(value) ? String(value) : value.toFixed(3)
}

/** What somebody who asks for reasons has probably come for: what does not run as it is wanted, worst first. */
export function puzzling(services: readonly ServiceRow[], instances: readonly InstanceRow[]): string[] {
  const ill = new Set(instances.filter((row) => toneOf(row) === 'bad').map(({ service }) => service))
  return services
    .filter(({ id, detail }) => ill.has(id) || detail !== undefined)
    .toSorted((a, b) => Number(ill.has(b.id)) - Number(ill.has(a.id)) || (a.id < b.id ? -1 : 1))
    .map(({ id }) => id)
}

/** Names that were begun to be typed. */
export function suggested(typed: string, services: readonly ServiceRow[], most: number): string[] {
  const words = typed.toLowerCase().split(/\s+/).filter(Boolean)
  if (words.length === 0) return []
  return services
    .map(({ id }) => id)
    .filter((id) => words.every((word) => id.includes(word)))
    .slice(0, most)
}

/** About a service, one of its instances, a node or a cluster; all of them without a name. */
export function eventsAbout(events: readonly EventRow[], name: string | undefined): EventRow[] {
  if (name === undefined) return [...events]
  return events.filter(
    ({ service, instance, node, cluster }) =>
      instance === name || service === name || node === name || cluster === name,
  )
}

/** By what was typed: any word of the line. */
export function eventsWith(events: readonly EventRow[], typed: string): EventRow[] {
  const words = typed.toLowerCase().split(/\s+/).filter(Boolean)
  if (words.length === 0) return [...events]
  return events.filter((event) => {
    const { what, by, service, instance, node, cluster, why } = event
    const text = [what, by, instance ?? service, node, cluster, why].filter(Boolean).join(' ').toLowerCase()
    return words.every((word) => text.includes(word))
  })
}

/** Events by the hour of the reader, newest first: a heading for each. */
export function byHour(events: readonly EventRow[], most: number): { hour: number; events: EventRow[] }[] {
  const newest = events.slice(-most)
  const groups = Map.groupBy(newest, ({ at }) => Math.floor(at / 3_600_000) * 3_600_000)
  return [...groups].map(([hour, all]) => ({ hour, events: all })).toSorted((a, b) => b.hour - a.hour)
}
