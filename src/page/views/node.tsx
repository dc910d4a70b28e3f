import { useMemo } from 'preact/hooks'
import { Badge, Meter } from '../parts/badge.tsx'
import { EventList } from '../parts/events.tsx'
import { Name } from '../parts/name.tsx'
import { Facts, Panel } from '../parts/panel.tsx'
import { type Column, Table } from '../parts/table.tsx'
import type { Mesh } from '../model/mesh.ts'
import type { NodeView } from '../model/nodes.ts'
import { hashOf } from '../model/route.ts'
import type { InstanceRow } from '../model/rows.ts'
import { toneOf } from '../model/services.ts'
import { coresText, memoryText, nameParts } from '../model/text.ts'
import { NodeActions } from './node-actions.tsx'

const EVENTS_SHOWN = 60

const COLUMNS: readonly Column<InstanceRow>[] = [
  { head: 'Instance', width: 'minmax(130px, 1.6fr)', cell: ({ id }) => <Name {...nameParts(id)} /> },
  {
    head: 'State',
    width: 'minmax(104px, 1fr)',
    cell: (row) => <Badge tone={toneOf(row)}>{row.outcome ?? row.state}</Badge>,
  },
  { head: 'CPU', width: '52px', isNumber: true, cell: ({ usage }) => coresText(usage?.cpu) },
  { head: 'Memory', width: '76px', isNumber: true, cell: ({ usage }) => memoryText(usage?.memoryMb) },
]

interface Props {
  id: string
  view: NodeView | undefined
  mesh: Mesh
  now: number
}

/** One node with what runs on it. */
export function NodePanel({ id, view, mesh, now }: Props) {
  const { instances, events } = mesh
  const close = hashOf({ view: 'nodes' })
  const own = useMemo(() => instances.filter(({ node }) => node === id), [instances, id])
  const told = useMemo(() => events.filter(({ node }) => node === id), [events, id])
  const [cluster = '', name = id] = id.split('/')
  if (view === undefined)
    return (
      <Panel title={name} within={cluster} close={close}>
        <p class="muted">There is no such node, or it has been deleted.</p>
      </Panel>
    )
  const { row, tone, word, notes, memoryTaken, cpuTaken, certificate } = view
  const labels = Object.entries(row.labels)
  return (
    <Panel title={name} within={cluster} close={close} beside={<Badge tone={tone}>{word}</Badge>}>
      {notes.length === 0 ? undefined : <p class={`notice ${tone}`}>{notes.join('; ')}</p>}
      <NodeActions row={row} />
      <Facts
        facts={[
          [
            'Memory',
            <Meter key="m" share={memoryTaken} text={partText(row.freeMemoryMb, row.capacity?.memoryMb, memoryText)} />,
          ],
          ['CPUs', <Meter key="c" share={cpuTaken} text={partText(row.freeVcpus, row.capacity?.vcpus, String)} />],
          ['Certificate ends', certificate.text],
          ['Version', row.version ?? '–'],
          ['Runtimes', row.runtimes.join(' ') || '–'],
          ['Architecture', row.arch ?? '–'],
          [
            'Addresses',
            <span key="a" class="mono">
              {row.addresses.join(' ') || '–'}
            </span>,
          ],
          ['Labels', labels.map(([key, value]) => `${key}=${value}`).join(' ') || '–'],
        ]}
      />
      <h3>
        Instances <span class="num muted">{own.length}</span>
      </h3>
      <div class={own.length > 8 ? 'inner tall' : 'inner'}>
        <Table
          label={`Instances on ${name}`}
          columns={COLUMNS}
          rows={own}
          keyOf={({ id }) => id}
          linkOf={({ id }) => hashOf({ view: 'services', open: id })}
          rowPx={48}
          empty="It runs none now."
        />
      </div>
      <h3>Events</h3>
      <EventList events={told} now={now} most={EVENTS_SHOWN} />
    </Panel>
  )
}

function partText(free: number | undefined, all: number | undefined, text: (amount: number) => string): string {
  if (free === undefined || all === undefined) return '–'
  return `${text(free)} of ${text(all)} free`
}
