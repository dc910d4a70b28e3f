import { useMemo } from 'preact/hooks'
import { Badge, Meter } from '../parts/badge.tsx'
import { EventList } from '../parts/events.tsx'
import { Facts, Panel } from '../parts/panel.tsx'
import { type Column, Table } from '../parts/table.tsx'
import type { Mesh } from '../model/mesh.ts'
import { hashOf } from '../model/route.ts'
import type { EventRow, InstanceRow } from '../model/rows.ts'
import { toneOf, type ServiceView } from '../model/services.ts'
import { coresText, memoryText, nameParts, whenText } from '../model/text.ts'
import { Name } from '../parts/name.tsx'
import { ServiceActions } from './service-actions.tsx'

const EVENTS_SHOWN = 60

const COLUMNS: readonly Column<InstanceRow>[] = [
  {
    head: 'No.',
    width: '44px',
    cell: ({ ordinal }) => <b class="num">{ordinal}</b>,
  },
  {
    head: 'State',
    width: 'minmax(104px, 1fr)',
    cell: (row) => <Badge tone={toneOf(row)}>{row.outcome ?? row.state}</Badge>,
  },
  {
    head: 'Node',
    width: 'minmax(110px, 1.6fr)',
    cell: ({ node, cluster, detail }) => <Name name={node ?? cluster ?? '–'} within={detail ?? ''} />,
  },
  { head: 'CPU', width: '52px', isExtra: true, isNumber: true, cell: ({ usage }) => coresText(usage?.cpu) },
  { head: 'Memory', width: '76px', isNumber: true, cell: ({ usage }) => memoryText(usage?.memoryMb) },
  { head: 'Restarts', width: '64px', isExtra: true, isNumber: true, cell: ({ restarts }) => restarts },
]

interface Props {
  id: string
  view: ServiceView | undefined
  mesh: Mesh
  now: number
}

/** One service with its instances and what happened to them. */
export function ServicePanel({ id, view, mesh, now }: Props) {
  const { instances, events } = mesh
  const close = hashOf({ view: 'services' })
  const { name, within } = nameParts(id)
  const own = useMemo(
    () => instances.filter(({ service }) => service === id).toSorted((a, b) => a.ordinal - b.ordinal),
    [instances, id],
  )
  const told = useMemo(() => events.filter(({ service }: EventRow) => service === id), [events, id])
  if (view === undefined)
    return (
      <Panel title={name} within={within} close={close}>
        <p class="muted">There is no such service, or it has been deleted.</p>
        <h3>Events</h3>
        <EventList events={told} now={now} most={EVENTS_SHOWN} />
      </Panel>
    )
  const { row, tone, word, wanted, ready, updated, versions } = view
  return (
    <Panel title={name} within={within} close={close} beside={<Badge tone={tone}>{word}</Badge>}>
      {row.detail === undefined ? undefined : <p class={`notice ${tone}`}>{row.detail}</p>}
      <ServiceActions view={view} instances={own} />
      <Facts
        facts={[
          [
            'Ready',
            <Meter
              key="r"
              share={wanted === 0 ? 0 : Math.min(1, ready / wanted)}
              text={`${ready} of ${wanted}`}
              tone={tone}
            />,
          ],
          [
            'Updated',
            <Meter
              key="u"
              share={row.update === undefined || wanted === 0 ? undefined : Math.min(1, updated / wanted)}
              text={`${updated} of ${wanted}`}
              tone="busy"
            />,
          ],
          ...(row.update === undefined ? [] : [['Roll-out', row.update] as const]),
          ['Versions', versions.map(({ generation, count }) => `${generation} × ${count}`).join(', ') || '–'],
          ['Ports', row.ports.map(({ port, protocol }) => `${port}/${protocol}`).join(' ') || '–'],
          ['Runtime', row.runtime],
          ['Strategy', row.strategy],
          ['Calls', (row.calls ?? []).map(({ service }) => service).join(' ') || '–'],
          ['Called by', allowText(row.allow)],
          ...(row.schedule === undefined ? [] : [['Schedule', row.schedule] as const]),
          ...(row.nextRunAt === undefined ? [] : [['Next run', whenText(row.nextRunAt, now)] as const]),
          ...(row.retryAt === undefined ? [] : [['Tried again', whenText(row.retryAt, now)] as const]),
        ]}
      />
      <h3>
        Instances <span class="num muted">{own.length}</span>
      </h3>
      <div class={own.length > 8 ? 'inner tall' : 'inner'}>
        <Table
          label={`Instances of ${name}`}
          columns={COLUMNS}
          rows={own}
          keyOf={({ id }) => id}
          linkOf={({ id }) => hashOf({ view: 'services', open: id })}
          rowPx={48}
          empty="It has none now."
        />
      </div>
      <h3>Events</h3>
      <EventList events={told} now={now} most={EVENTS_SHOWN} />
    </Panel>
  )
}

function allowText(allow: string | readonly string[]): string {
  if (typeof allow === 'string') return allow
  return allow.length === 0 ? 'nobody' : allow.join(' ')
}
