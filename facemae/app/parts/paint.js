// A picture under a grid of cells: press and drag paints or wipes, arrows and space do the same.
// Called again whenever the page sends data; what was painted meanwhile is kept with the element.

const boards = new WeakMap()

export default function (component) {
  const { data, parentElement, setStateValue } = component
  let board = boards.get(parentElement)
  if (!board) {
    board = makeBoard(parentElement)
    boards.set(parentElement, board)
  }
  board.send = (cells) => setStateValue("cells", cells)
  update(board, data)
}

function makeBoard(root) {
  const find = (name) => root.querySelector(`[data-part="${name}"]`)
  const board = {
    frame: find("frame"), image: find("image"), canvas: find("canvas"), count: find("count"), spoken: find("spoken"),
    side: 0, painted: new Set(), row: 0, column: 0, stroke: null, unit: "cells", send: () => {},
  }
  const canvas = board.canvas
  canvas.onpointerdown = (event) => press(board, event)
  canvas.onpointermove = (event) => drag(board, event)
  canvas.onpointerup = canvas.onpointercancel = () => release(board)
  canvas.onkeydown = (event) => key(board, event)
  canvas.onfocus = canvas.onblur = () => draw(board)
  find("clear").onclick = () => change(board, () => board.painted.clear())
  find("invert").onclick = () => change(board, () => {
    for (let cell = 0; cell < board.side ** 2; cell++) toggle(board, cell, !board.painted.has(cell))
  })
  return board
}

function update(board, data) {
  // The page's list lags behind what is being painted, so it is taken over for another board only.
  if (board.side !== data.side || board.start !== data.start.join()) {
    board.side = data.side
    board.start = data.start.join()
    board.painted = new Set(data.cells)
    board.row = board.column = Math.floor(data.side / 2)
    board.stroke = null
  }
  board.colour = data.colour
  board.unit = data.unit
  const source = `data:image/png;base64,${data.picture}`
  if (board.image.src !== source) board.image.src = source
  board.frame.style.maxWidth = `${data.width}px`
  const pixels = Math.round(data.width * Math.min(2, window.devicePixelRatio || 1))
  if (board.canvas.width !== pixels) board.canvas.width = board.canvas.height = pixels
  board.canvas.setAttribute("aria-label", data.label)
  draw(board)
}

function draw(board) {
  const { canvas, side, painted } = board
  const pen = canvas.getContext("2d")
  const size = canvas.width
  const at = (place) => Math.round((place * size) / side)
  pen.clearRect(0, 0, size, size)
  pen.fillStyle = board.colour
  for (const cell of painted) {
    const row = Math.floor(cell / side), column = cell % side
    pen.fillRect(at(column), at(row), at(column + 1) - at(column), at(row + 1) - at(row))
  }
  pen.strokeStyle = side > 16 ? "rgba(128, 128, 128, 0.25)" : "rgba(128, 128, 128, 0.6)"
  pen.lineWidth = 1
  pen.beginPath()
  for (let line = 1; line < side; line++) {
    pen.moveTo(at(line) + 0.5, 0)
    pen.lineTo(at(line) + 0.5, size)
    pen.moveTo(0, at(line) + 0.5)
    pen.lineTo(size, at(line) + 0.5)
  }
  pen.stroke()
  if (canvas.matches(":focus-visible")) drawCursor(board, pen, at)
  board.count.textContent = `${painted.size} of ${side ** 2} ${board.unit} painted`
}

function drawCursor(board, pen, at) {
  const left = at(board.column), top = at(board.row)
  const width = at(board.column + 1) - left, height = at(board.row + 1) - top
  // Two colours, so that it is seen on whatever is below.
  for (const [colour, inset] of [["#000000", 1.5], ["#ffffff", 3.5]]) {
    pen.strokeStyle = colour
    pen.lineWidth = 2
    pen.strokeRect(left + inset, top + inset, Math.max(1, width - 2 * inset), Math.max(1, height - 2 * inset))
  }
}

function place(board, event) {
  const box = board.canvas.getBoundingClientRect()
  const within = (share) => Math.min(board.side - 1, Math.max(0, Math.floor(share * board.side)))
  return [within((event.clientY - box.top) / box.height), within((event.clientX - box.left) / box.width)]
}

function press(board, event) {
  if (event.button) return
  event.preventDefault()
  board.canvas.focus({ preventScroll: true, focusVisible: false })
  board.canvas.setPointerCapture(event.pointerId)
  const [row, column] = place(board, event)
  board.stroke = { paint: !board.painted.has(row * board.side + column), row, column }
  paintTo(board, row, column)
}

function drag(board, event) {
  if (!board.stroke) return
  const events = event.getCoalescedEvents ? event.getCoalescedEvents() : []
  for (const each of events.length ? events : [event]) paintTo(board, ...place(board, each))
}

function paintTo(board, row, column) {
  // Every cell on the way from the last place, so that a quick stroke has no gaps.
  const { stroke } = board
  const steps = Math.max(Math.abs(row - stroke.row), Math.abs(column - stroke.column), 1)
  for (let step = 1; step <= steps; step++) {
    const across = Math.round(stroke.column + ((column - stroke.column) * step) / steps)
    const down = Math.round(stroke.row + ((row - stroke.row) * step) / steps)
    toggle(board, down * board.side + across, stroke.paint)
  }
  Object.assign(stroke, { row, column })
  Object.assign(board, { row, column })
  draw(board)
}

function release(board) {
  if (!board.stroke) return
  board.stroke = null
  tell(board)
}

function toggle(board, cell, paint) {
  if (paint) board.painted.add(cell)
  else board.painted.delete(cell)
}

function change(board, edit) {
  edit()
  draw(board)
  board.spoken.textContent = board.count.textContent
  tell(board)
}

function tell(board) {
  board.send([...board.painted].sort((one, other) => one - other))
}

const STEPS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }

function key(board, event) {
  const step = STEPS[event.key]
  if (step) {
    const inside = (value) => Math.min(board.side - 1, Math.max(0, value))
    board.row = inside(board.row + step[0])
    board.column = inside(board.column + step[1])
  } else if (event.key === " " || event.key === "Enter") {
    const cell = board.row * board.side + board.column
    toggle(board, cell, !board.painted.has(cell))
    tell(board)
  } else return
  event.preventDefault()
  event.stopPropagation()
  draw(board)
  const state = board.painted.has(board.row * board.side + board.column) ? "painted" : "clear"
  board.spoken.textContent = `Row ${board.row + 1}, column ${board.column + 1}: ${state}`
}
