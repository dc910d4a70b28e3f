import type { components } from '../client/api-types.ts'
import { printable } from '../core/kit/printable.ts'
import type { Context } from './context.ts'
import { lineOf, isData, printData, printTable } from './output.ts'
import { say, note } from './terminal.ts'

type Applied = components['schemas']['Applied']
type PreviewedService = Applied['services'][number]

type Difference = NonNullable<PreviewedService['differences']>[number]

export async function printPreview(preview: Applied, context: Context): Promise<void> {
  if (isData(context)) return printData(preview, context)
  for (const warning of preview.warnings) note(`warning: ${lineOf(warning)}`)
  printTable(
    ['service', 'change', 'instances', 'fields'],
    preview.services.map(({ id, change, instances, fields = [] }) => [
      id,
      WOULD[change] ?? change,
      countsOf(instances),
      fields.join(' '),
    ]),
  )
  for (const { id, differences = [] } of preview.services)
    for (const line of differences.flatMap(differenceLines)) say(printable(`${id} ${line}`))
  for (const line of gapLines(preview.services)) note(printable(line))
  const places = preview.services.flatMap(({ places = [] }) => places)
  if (places.length === 0) return
  say('New instances would go to:')
  for (const { instance, place, reason = '' } of places)
    say(printable(`  ${instance}: ${place ?? `nowhere: ${reason}`}`))
}

/** A longer value is cut; `-o json` has the whole. */
const MOST_SHOWN = 160

/** `environment: - LOG=info`, `environment: + LOG=debug`: of a list the entries that go and come, else the whole. */
export function differenceLines({ keys, before, after }: Difference): string[] {
  const isList = Array.isArray(before) && Array.isArray(after) && !keys.includes('cmd')
  const [was, is] = [entries(before, isList), entries(after, isList)]
  const [gone, come] = [was.filter((entry) => !is.includes(entry)), is.filter((entry) => !was.includes(entry))]
  const isOrder = gone.length + come.length === 0
  return [
    ...(isOrder ? was : gone).map((entry) => `- ${entry}`),
    ...(isOrder ? is : come).map((entry) => `+ ${entry}`),
  ].map((line) => `${keys.join(', ')}: ${line.length > MOST_SHOWN ? `${line.slice(0, MOST_SHOWN)}…` : line}`)
}

function entries(value: unknown, isList: boolean): string[] {
  if (value === undefined) return []
  return (isList ? (value as unknown[]) : [value]).map((each) =>
    typeof each === 'string' ? each : JSON.stringify(each),
  )
}

/** One line for each service that does not answer while it is updated. */
export function gapLines(services: ReadonlyArray<{ id: string; gap?: string }>): string[] {
  return services.flatMap(({ id, gap }) => (gap === undefined ? [] : [`${id} is updated with a gap: ${gap}`]))
}

const WOULD: Readonly<Record<string, string>> = {
  created: 'would be created',
  updated: 'would be updated',
  removed: 'would be removed',
}

/** `2 added, 1 replaced` */
function countsOf(instances: PreviewedService['instances']): string {
  if (instances === undefined) return ''
  const { added, replaced, changedInPlace, removed } = instances
  const counts = [
    [added, 'added'],
    [replaced, 'replaced'],
    [changedInPlace, 'changed in place'],
    [removed, 'removed'],
  ] as const
  return counts.flatMap(([count, word]) => (count === 0 ? [] : [`${count} ${word}`])).join(', ')
}
