import { useMemo } from 'preact/hooks'
import { Badge } from '../parts/badge.tsx'
import { EventList } from '../parts/events.tsx'
import { LogTail } from '../parts/log.tsx'
import { Facts, Panel } from '../parts/panel.tsx'
import type { Mesh } from '../model/mesh.ts'
import { hashOf } from '../model/route.ts'
import type { Usage } from '../model/rows.ts'
import { toneOf } from '../model/services.ts'
import { coresText, memoryText, nameParts, whenText } from '../model/text.ts'
import { InstanceActions } from './service-actions.tsx'

const EVENTS_SHOWN = 60

/** One instance: where it is, what it uses, what it writes, what happened to it. */
export function InstancePanel({ id, mesh, now }: { id: string; mesh: Mesh; now: number }) {
  const row = useMemo(() => mesh.instances.find((one) => one.id === id), [mesh.instances, id])
  const told = useMemo(() => mesh.events.filter(({ instance }) => instance === id), [mesh.events, id])
  const { name, within } = nameParts(id)
  const service = id.split('.').slice(0, 4).join('.')
  const up = hashOf({ view: 'services', open: service })
  if (row === undefined)
    return (
      <Panel title={name} within={within} close={up}>
        <p class="muted">There is no such instance, or it is gone.</p>
        <h3>Events</h3>
        <EventList events={told} now={now} most={EVENTS_SHOWN} />
      </Panel>
    )
  const tone = toneOf(row)
  return (
    <Panel title={name} within={within} close={up} beside={<Badge tone={tone}>{row.outcome ?? row.state}</Badge>}>
      {row.detail === undefined ? undefined : <p class={`notice ${tone}`}>{row.detail}</p>}
      <InstanceActions row={row} nodes={mesh.nodes} />
      <Facts
        facts={[
          [
            'Node',
            row.node === undefined ? (
              (row.cluster ?? '–')
            ) : (
              <a key="n" href={hashOf({ view: 'nodes', open: row.node })}>
                {row.node}
              </a>
            ),
          ],
          ['CPU', cpuText(row.usage)],
          ['Memory', usedText(row.usage)],
          ['Generation', row.epoch === undefined ? row.generation : `${row.generation}, epoch ${row.epoch}`],
          ['Restarts', row.restarts],
          ...(row.changedAt === undefined ? [] : [['Changed', whenText(row.changedAt, now)] as const]),
          ...(row.retryAt === undefined ? [] : [['Tried again', whenText(row.retryAt, now)] as const]),
          ...(row.successor === undefined ? [] : [['Successor', successorText(row.successor)] as const]),
          ...(row.mayAlsoRunOn === undefined ? [] : [['May also run on', row.mayAlsoRunOn.join(', ')] as const]),
          ...(row.usage === undefined || row.usage.oomKills === 0
            ? []
            : [['Killed for memory', `${row.usage.oomKills} times`] as const]),
        ]}
      />
      {row.node === undefined ? undefined : <LogTail key={id} instance={id} />}
      <h3>Events</h3>
      <EventList events={told} now={now} most={EVENTS_SHOWN} />
    </Panel>
  )
}

function cpuText(usage: Usage | undefined): string {
  if (usage === undefined) return '–'
  const limit = usage.vcpuLimit === undefined ? '' : ` of ${usage.vcpuLimit}`
  const waits = usage.throttled >= 0.05 ? `, waits ${Math.round(usage.throttled * 100)} %` : ''
  return `${coresText(usage.cpu)}${limit}${waits}`
}

function usedText(usage: Usage | undefined): string {
  if (usage === undefined) return '–'
  const limit = usage.memoryLimitMb === undefined ? '' : ` of ${memoryText(usage.memoryLimitMb)}`
  return `${memoryText(usage.memoryMb)}${limit}`
}

function successorText({ node, state, detail }: { node?: string; state: string; detail?: string }): string {
  return [state, node === undefined ? '' : `on ${node}`, detail ?? ''].filter(Boolean).join(', ')
}
