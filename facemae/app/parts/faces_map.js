// Points on a plane, each a face that shows when the pointer, a finger or an arrow key comes to it.
// Names are only ever set as text; the pictures are tiles of one sheet that came with the data.

const WIDTH = 100
const HEIGHT = 70
const MARGIN = 4
const REACH = 6 // how near, in the plane's units, the pointer has to come
const SVG = "http://www.w3.org/2000/svg"

const maps = new WeakMap()

export default function (component) {
  const { data, parentElement } = component
  const shown = maps.get(parentElement)
  if (shown && shown.token === data.token) return
  maps.set(parentElement, draw(parentElement, data))
}

function draw(root, data) {
  const find = (name) => root.querySelector(`[data-part="${name}"]`)
  const map = {
    token: data.token, data, frame: find("frame"), plane: find("plane"), card: find("card"),
    face: find("face"), name: find("name"), at: -1, places: scaled(data.points),
  }
  map.frame.classList.remove("chosen")
  map.plane.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`)
  map.plane.setAttribute("aria-label", data.label)
  const radius = data.points.length > 600 ? 0.6 : 1
  map.circles = map.places.map(([x, y], place) => {
    const circle = document.createElementNS(SVG, "circle")
    circle.setAttribute("cx", x)
    circle.setAttribute("cy", y)
    circle.setAttribute("r", radius)
    // Golden angles keep neighbouring numbers apart; the lightness suits light and dark pages.
    circle.setAttribute("fill", `hsl(${(data.person[place] * 137.5) % 360} 65% 50%)`)
    return circle
  })
  map.plane.replaceChildren(...map.circles)
  map.face.style.backgroundImage = `url(data:image/jpeg;base64,${data.sheet})`
  map.face.style.backgroundSize = `${data.columns * 100}% ${data.rows * 100}%`
  map.plane.onpointermove = map.plane.onpointerdown = (event) => choose(map, nearest(map, event))
  map.plane.onpointerleave = (event) => {
    if (event.pointerType === "mouse") choose(map, -1)
  }
  map.plane.onblur = () => choose(map, -1)
  map.plane.onkeydown = (event) => key(map, event)
  return map
}

function scaled(points) {
  const ends = [0, 1].map((axis) => {
    const values = points.map((point) => point[axis])
    return [Math.min(...values), Math.max(...values)]
  })
  const span = (axis) => ends[axis][1] - ends[axis][0] || 1
  return points.map(([x, y]) => [
    MARGIN + ((x - ends[0][0]) / span(0)) * (WIDTH - 2 * MARGIN),
    HEIGHT - MARGIN - ((y - ends[1][0]) / span(1)) * (HEIGHT - 2 * MARGIN),
  ])
}

function nearest(map, event) {
  const box = map.plane.getBoundingClientRect()
  const x = ((event.clientX - box.left) / box.width) * WIDTH
  const y = ((event.clientY - box.top) / box.height) * HEIGHT
  let best = -1
  let least = REACH ** 2
  map.places.forEach(([px, py], place) => {
    const far = (px - x) ** 2 + (py - y) ** 2
    if (far < least) [best, least] = [place, far]
  })
  return best
}

function key(map, event) {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key]
  const jump = { ArrowDown: 1, ArrowUp: -1 }[event.key]
  if (event.key === "Escape") choose(map, -1)
  else if (step) choose(map, around(map, map.at + (map.at < 0 && step < 0 ? 0 : step)))
  else if (jump) choose(map, neighbour(map, jump))
  else return
  event.preventDefault()
}

function around(map, place) {
  return (place + map.places.length) % map.places.length
}

function neighbour(map, jump) {
  // The first face of the next person, or of the one before.
  const { person } = map.data
  if (map.at < 0) return 0
  let place = map.at
  do place = around(map, place + jump)
  while (place !== map.at && person[place] === person[map.at])
  return person.indexOf(person[place])
}

function choose(map, place) {
  if (place === map.at) return
  map.at = place
  map.frame.classList.toggle("chosen", place >= 0)
  if (place < 0) return
  const { data } = map
  map.circles.forEach((circle, other) => {
    circle.classList.toggle("same", data.person[other] === data.person[place])
    circle.classList.toggle("here", other === place)
  })
  const [column, row] = [place % data.columns, Math.floor(place / data.columns)]
  const share = (at, count) => (count > 1 ? (at / (count - 1)) * 100 : 0)
  map.face.style.backgroundPosition = `${share(column, data.columns)}% ${share(row, data.rows)}%`
  map.face.setAttribute("aria-label", data.names[place])
  map.name.textContent = `${data.people[data.person[place]]}: ${data.names[place]}`
  put(map, place)
}

function put(map, place) {
  const [x, y] = map.places[place]
  const box = map.plane.getBoundingClientRect()
  const card = map.card.getBoundingClientRect()
  const [px, py] = [(x / WIDTH) * box.width, (y / HEIGHT) * box.height]
  const left = px + 14 + card.width < box.width ? px + 14 : Math.max(0, px - 14 - card.width)
  const top = Math.min(Math.max(0, py - card.height / 2), Math.max(0, box.height - card.height))
  map.card.style.transform = `translate(${left}px, ${top}px)`
}
